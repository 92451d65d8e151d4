//! The request data a policy engine may pass with an action.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;

/// Lemur's `ActionData`: JSON `{"file_id": <base64>, "mover_data": <base64>}`, each part optional.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ActionData {
    /// Used as the object's id instead of the one on the file.
    pub file_id: Vec<u8>,
    /// Passed on to the mover.
    pub mover_data: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    file_id: Option<String>,
    #[serde(default)]
    mover_data: Option<String>,
}

impl ActionData {
    /// Reads what came with a request. Data that is not such JSON is the mover's, whole.
    #[must_use]
    pub fn parse(data: &[u8]) -> Self {
        let decoded = serde_json::from_slice::<Raw>(data).ok().and_then(|raw| {
            let part = |p: Option<String>| BASE64_STANDARD.decode(p.unwrap_or_default());
            Some(Self { file_id: part(raw.file_id).ok()?, mover_data: part(raw.mover_data).ok()? })
        });
        decoded.unwrap_or_else(|| Self { file_id: Vec::new(), mover_data: data.to_vec() })
    }

    /// The same JSON, as Go's encoder writes byte slices (an empty slice is an empty string).
    #[must_use]
    pub fn to_json(&self) -> String {
        format!(
            r#"{{"file_id":"{}","mover_data":"{}"}}"#,
            BASE64_STANDARD.encode(&self.file_id),
            BASE64_STANDARD.encode(&self.mover_data)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_the_json_is_the_mover_s() {
        assert_eq!(ActionData::parse(b"tape=7").mover_data, b"tape=7");
        assert_eq!(ActionData::parse(br#"{"file_id":"%%"}"#).mover_data, br#"{"file_id":"%%"}"#);
        assert_eq!(ActionData::parse(b""), ActionData::default());
        assert_eq!(ActionData::parse(br#"{"file_id":"YWJj","mover_data":null}"#).file_id, b"abc");
    }

    proptest! {
        #[test]
        fn json_round_trips(file_id: Vec<u8>, mover_data: Vec<u8>) {
            let data = ActionData { file_id, mover_data };
            prop_assert_eq!(ActionData::parse(data.to_json().as_bytes()), data);
        }
    }
}
