//! Which requests something happens to.

use std::fmt;

use http::HeaderMap;

/// A request as the proxy received it, without its body.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method, in capitals.
    pub method: String,
    /// The path, percent-encoded as it came.
    pub path: String,
    /// The query without its question mark, percent-encoded as it came; empty when there is none.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
}

impl Request {
    pub(crate) fn of<B>(request: &http::Request<B>) -> Self {
        Self {
            method: request.method().as_str().to_owned(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
        }
    }

    /// The value of a parameter of the query, percent-encoded as it came; empty when it has none.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
    }
}

type Predicate = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// Conditions on a request, which all have to hold; and which of those requests that meet them are meant.
///
/// The completion of an S3 upload is `When::method("POST").parameter("uploadId")`, its first two parts
/// `When::method("PUT").parameter("partNumber").times(2)`, the third `When::….skip(2).times(1)`.
pub struct When {
    conditions: Vec<Predicate>,
    skip: usize,
    times: usize,
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { conditions, skip, times } = self;
        write!(f, "When({} conditions, skip {skip}, times {times})", conditions.len())
    }
}

impl When {
    /// Every request.
    pub fn any() -> Self {
        Self { conditions: Vec::new(), skip: 0, times: usize::MAX }
    }

    /// Requests of this method, in capitals.
    pub fn method(method: &str) -> Self {
        let method = method.to_owned();
        Self::any().and(move |request| request.method == method)
    }

    /// Also: `part` is a part of the path.
    pub fn path(self, part: &str) -> Self {
        let part = part.to_owned();
        self.and(move |request| request.path.contains(&part))
    }

    /// Also: the query has a parameter of this name.
    pub fn parameter(self, name: &str) -> Self {
        let name = name.to_owned();
        self.and(move |request| request.parameter(&name).is_some())
    }

    /// Also: the query has no parameter of this name.
    pub fn no_parameter(self, name: &str) -> Self {
        let name = name.to_owned();
        self.and(move |request| request.parameter(&name).is_none())
    }

    /// Also: this holds. Asked once for each request that meets the conditions before.
    pub fn and(mut self, condition: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.conditions.push(Box::new(condition));
        self
    }

    /// Not the first `count` that meet the conditions.
    pub fn skip(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Of those that are left, the first `count`.
    pub fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    /// Whether a request is meant; counts it.
    pub(crate) fn takes(&mut self, request: &Request) -> bool {
        if !self.conditions.iter().all(|condition| condition(request)) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let taken = self.times > 0;
        self.times = self.times.saturating_sub(1);
        taken
    }
}
