//! Requests taken apart and replies put together: everything a client gets, errors included, is JSON of one shape.

use super::api::Validate;
use super::control::{ControlError, ErrorCode};
use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Serialize)]
struct ErrorBody {
    error: ControlError,
}

impl ErrorCode {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        (self.code.status(), Json(ErrorBody { error: self })).into_response()
    }
}

/// A body that is JSON of this type and within its limits. The content type is not looked at.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + Validate, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ControlError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ControlError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|why| body_refused(&why))?;
        // serde_json's errors end in "at line L column C".
        let value: T = serde_json::from_slice(&bytes).map_err(|why| {
            ControlError::new(ErrorCode::Invalid, format!("the body is not what this request takes: {why}"))
        })?;
        value.validate().map_err(|why| ControlError::new(ErrorCode::Invalid, why))?;
        Ok(Self(value))
    }
}

fn body_refused(why: &BytesRejection) -> ControlError {
    if why.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let limit = super::api::MAX_BODY_BYTES;
        ControlError::new(
            ErrorCode::TooLarge,
            format!("the body is larger than {limit} bytes: name fewer files in one call"),
        )
    } else {
        ControlError::new(ErrorCode::Invalid, format!("the body cannot be read: {}", why.body_text()))
    }
}

/// The query string, with no key that this type does not have.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ControlError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ControlError> {
        let refused = |why: QueryRejection| ControlError::new(ErrorCode::Invalid, why.body_text());
        Query::from_request_parts(parts, state).await.map(|Query(value)| Self(value)).map_err(refused)
    }
}
