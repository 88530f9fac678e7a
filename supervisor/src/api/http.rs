// SPDX-License-Identifier: Apache-2.0
//! As much of HTTP/1.1 (RFC 9112) as the API needs, as pure functions over untrusted bytes.

use std::fmt::Write as _;

use spec::api::Fault;

/// The longest request line and headers together, in bytes.
pub const HEAD_MAX_BYTES: usize = 8 << 10;
/// The most headers.
pub const HEADERS_MAX: usize = 32;
/// The longest body, in bytes.
pub const BODY_MAX_BYTES: usize = 64 << 10;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The target, as sent.
    pub target: String,
    /// The body.
    pub body: Vec<u8>,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// Whether the client understands an answer in chunks: HTTP/1.1.
    pub takes_chunks: bool,
    /// How many bytes of the input it took.
    pub len: usize,
}

/// Why a request is not served: a status and one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// One line for the user.
    pub reason: String,
    /// The method that the target has, with status 405.
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// A refusal with this status and reason.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            allow: None,
        }
    }
}

/// Parses one request from the start of `input`; `None` if it is not complete yet. After an error
/// nothing that follows can be trusted to be a request.
pub fn parse(input: &[u8]) -> Result<Option<Request>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = &input[..input.len().min(HEAD_MAX_BYTES)];
    let head_len = match parsed.parse(head) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if head.len() < HEAD_MAX_BYTES => return Ok(None),
        Ok(httparse::Status::Partial) => {
            let reason = format!("the headers are longer than {HEAD_MAX_BYTES} bytes");
            return Err(Refusal::new(431, reason));
        }
        Err(httparse::Error::TooManyHeaders) => {
            let reason = format!("there are more than {HEADERS_MAX} headers");
            return Err(Refusal::new(431, reason));
        }
        Err(httparse::Error::Version) => {
            return Err(Refusal::new(505, "only HTTP/1.1 is spoken here"));
        }
        Err(error) => return Err(Refusal::new(400, format!("not HTTP: {error}"))),
    };
    let minor = parsed.version.unwrap_or(0);
    let framing = Framing::of(parsed.headers, minor)?;
    let len = head_len + framing.body_len;
    let Some(body) = input.get(head_len..len) else {
        return Ok(None);
    };
    Ok(Some(Request {
        method: parsed.method.unwrap_or_default().into(),
        target: parsed.path.unwrap_or_default().into(),
        body: body.to_vec(),
        keep_alive: framing.keep_alive,
        takes_chunks: minor >= 1,
        len,
    }))
}

/// What the headers say about where the request ends.
struct Framing {
    body_len: usize,
    keep_alive: bool,
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>], minor: u8) -> Result<Self, Refusal> {
        let mut length = None;
        let mut hosts = 0;
        let mut keep_alive = minor >= 1;
        for header in headers {
            let name = header.name;
            if name.eq_ignore_ascii_case("content-length") {
                if length.is_some() {
                    return Err(Refusal::new(400, "there is more than one Content-Length"));
                }
                length = Some(content_length(header.value)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(Refusal::new(501, "Transfer-Encoding is not supported"));
            } else if name.eq_ignore_ascii_case("connection") {
                let has = |token| has_token(header.value, token);
                keep_alive = !has("close") && (keep_alive || has("keep-alive"));
            } else if name.eq_ignore_ascii_case("host") {
                hosts += 1;
            }
        }
        // "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request
        // message that lacks a Host header field and to any request message that contains more than
        // one Host header field line" (RFC 9112, 3.2).
        if hosts > 1 || (minor >= 1 && hosts == 0) {
            return Err(Refusal::new(400, "there must be one Host"));
        }
        Ok(Self {
            body_len: length.unwrap_or(0),
            keep_alive,
        })
    }
}

fn content_length(value: &[u8]) -> Result<usize, Refusal> {
    let malformed = || Refusal::new(400, "Content-Length is not a number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let text = std::str::from_utf8(value).map_err(|_| malformed())?;
    // A number that overflows is too large, too.
    match text.parse() {
        Ok(len) if len <= BODY_MAX_BYTES => Ok(len),
        _ => {
            let reason = format!("the body is longer than {BODY_MAX_BYTES} bytes");
            Err(Refusal::new(413, reason))
        }
    }
}

fn has_token(value: &[u8], token: &str) -> bool {
    let mut tokens = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    tokens.any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// 200 with a JSON document.
    Json(String),
    /// 200 with bytes of any kind.
    Bytes(Vec<u8>),
    /// 204.
    Done,
    /// An error with a [`Fault`].
    Refused(Refusal),
}

impl Response {
    /// The bytes of the response.
    pub fn encode(&self, keep_alive: bool) -> Vec<u8> {
        let (status, body, allow) = match self {
            Self::Json(body) => (200, body.clone().into_bytes(), None),
            Self::Bytes(body) => (200, body.clone(), None),
            Self::Done => (204, Vec::new(), None),
            Self::Refused(refusal) => {
                let fault = Fault {
                    error: refusal.reason.clone(),
                };
                let body = serde_json::to_string(&fault).unwrap_or_default();
                (refusal.status, body.into_bytes(), refusal.allow)
            }
        };
        let mut text = format!("HTTP/1.1 {status} {}\r\n", phrase(status));
        if let Some(allow) = allow {
            let _ = write!(text, "Allow: {allow}\r\n");
        }
        if status != 204 {
            let len = body.len();
            let kind = match self {
                Self::Bytes(_) => "application/octet-stream",
                _ => "application/json",
            };
            let _ = write!(text, "Content-Type: {kind}\r\nContent-Length: {len}\r\n");
        }
        if !keep_alive {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend(body);
        bytes
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
