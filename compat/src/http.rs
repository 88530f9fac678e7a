// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 (RFC 9112) as clients of Cloud Hypervisor speak it, as pure functions over untrusted bytes.
//!
//! Its own client takes everything between `HTTP/1.1 ` and the end of the line for the status, looks for
//! the literal `Content-Length: `, and parses a body wherever there is one. So a status has no phrase
//! behind it, and a 204 has no length.

use serde_json::Value;

use crate::fault::Fault;

/// The longest request line and headers together, in bytes.
pub const HEAD_MAX_BYTES: usize = 16 << 10;
/// The most headers.
const HEADERS_MAX: usize = 64;
/// The longest body, in bytes.
pub const BODY_MAX_BYTES: usize = 4 << 20;

/// What a client that waits before it sends the body is told.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 \r\n\r\n";

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The path, without scheme and host.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// How many bytes of the input it took.
    pub len: usize,
}

/// What the input holds so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Not a whole request yet; whether its client wants to hear that the body is welcome.
    Partial {
        /// `Expect: 100-continue`.
        expects: bool,
    },
    /// A request.
    Whole(Request),
}

/// Parses one request from the start of `input`. After an error nothing that follows can be trusted to
/// be a request.
///
/// # Errors
/// What is no HTTP or too long.
pub fn parse(input: &[u8]) -> Result<Parsed, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = &input[..input.len().min(HEAD_MAX_BYTES)];
    let head_len = match parsed.parse(head) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if head.len() < HEAD_MAX_BYTES => {
            return Ok(Parsed::Partial { expects: false });
        }
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Fault::bad("The headers are too long or too many"));
        }
        Err(error) => return Err(Fault::bad(format!("Not HTTP: {error}"))),
    };
    let framing = Framing::of(parsed.headers, parsed.version.unwrap_or(0))?;
    let behind = input.get(head_len..).unwrap_or_default();
    let body = match framing.is_chunked {
        true => unchunk(behind)?,
        false => {
            let body = behind.get(..framing.body_len);
            body.map(|body| (body.to_vec(), framing.body_len))
        }
    };
    let Some((body, body_len)) = body else {
        return Ok(Parsed::Partial {
            expects: framing.expects,
        });
    };
    Ok(Parsed::Whole(Request {
        method: parsed.method.unwrap_or_default().into(),
        path: path(parsed.path.unwrap_or_default()).into(),
        body,
        keep_alive: framing.keep_alive,
        len: head_len + body_len,
    }))
}

/// The path of a target, which may be a whole URI.
fn path(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    }
}

/// A body in chunks, and how many bytes it took; `None` if it is not complete yet. libvirt 9.0 sends all
/// requests without a body like this, with one empty chunk.
fn unchunk(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Fault> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &input[at..];
        let (start, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Fault::bad("A chunk of the body has no size")),
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > BODY_MAX_BYTES || body.len() + size > BODY_MAX_BYTES || at > BODY_MAX_BYTES {
            return Err(too_long());
        }
        let Some(chunk) = rest.get(start..start + size + 2) else {
            return Ok(None);
        };
        // Trailers would stand here.
        let Some(chunk) = chunk.strip_suffix(b"\r\n") else {
            return Err(Fault::bad("A chunk of the body is not as long as it says"));
        };
        body.extend_from_slice(chunk);
        at += start + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// What a body is refused with that does not fit.
pub fn too_long() -> Fault {
    let reason = format!("The body is longer than {BODY_MAX_BYTES} bytes");
    Fault::new(413, reason)
}

/// What the headers say about where the request ends.
struct Framing {
    body_len: usize,
    is_chunked: bool,
    keep_alive: bool,
    expects: bool,
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>], minor: u8) -> Result<Self, Fault> {
        let mut length = None;
        let (mut keep_alive, mut expects, mut is_chunked) = (minor >= 1, false, false);
        for header in headers {
            let value = header.value.trim_ascii();
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" if length.is_some() => {
                    return Err(Fault::bad("There is more than one Content-Length"));
                }
                "content-length" => length = Some(content_length(value)?),
                "transfer-encoding" if value.eq_ignore_ascii_case(b"chunked") => is_chunked = true,
                "transfer-encoding" => {
                    return Err(Fault::bad("Transfer-Encoding must be chunked"));
                }
                "connection" => keep_alive &= !value.eq_ignore_ascii_case(b"close"),
                "expect" => expects = value.eq_ignore_ascii_case(b"100-continue"),
                _ => {}
            }
        }
        if is_chunked && length.is_some() {
            let reason = "There is a Content-Length beside Transfer-Encoding";
            return Err(Fault::bad(reason));
        }
        Ok(Self {
            body_len: length.unwrap_or(0),
            is_chunked,
            keep_alive,
            expects,
        })
    }
}

fn content_length(value: &[u8]) -> Result<usize, Fault> {
    let digits = std::str::from_utf8(value).ok();
    let digits = digits.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let digits = digits.ok_or_else(|| Fault::bad("Content-Length is not a number"))?;
    // A number that overflows is too large, too.
    match digits.parse() {
        Ok(len) if len <= BODY_MAX_BYTES => Ok(len),
        _ => Err(too_long()),
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 204.
    Done,
    /// 200 with a JSON document.
    Json(Value),
    /// An error.
    Refused(Fault),
}

impl Answer {
    /// The bytes of the answer.
    pub fn encode(&self, keep_alive: bool) -> Vec<u8> {
        let (status, body) = match self {
            Self::Done => (204, None),
            Self::Json(document) => (200, Some(document.to_string())),
            Self::Refused(fault) => (fault.status, Some(fault.body())),
        };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let mut text = format!(
            "HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nConnection: {connection}\r\n"
        );
        if let Some(body) = &body {
            let len = body.len();
            text.push_str("Content-Type: application/json\r\n");
            text.push_str(&format!("Content-Length: {len}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(&body.unwrap_or_default());
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(input: &[u8]) -> Request {
        match parse(input).unwrap() {
            Parsed::Whole(request) => request,
            Parsed::Partial { .. } => unreachable!("a whole request"),
        }
    }

    #[test]
    fn request_of_the_vendors_client_without_colon_spaces_is_read() {
        let input = b"PUT /api/v1/vm.boot HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
        let request = whole(input);
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("PUT", "/api/v1/vm.boot")
        );
        assert!(request.keep_alive && request.len == input.len());
    }

    #[test]
    fn request_with_a_whole_uri_or_without_a_host_is_read() {
        let curl = b"GET http://localhost/api/v1/vm.info HTTP/1.1\r\n\r\n";
        assert_eq!(whole(curl).path, "/api/v1/vm.info");
    }

    #[test]
    fn request_cut_anywhere_is_partial_and_one_that_expects_is_told() {
        let input = b"PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}";
        let head = input.len() - 2;
        for len in 0..input.len() {
            let expects = len >= head;
            assert_eq!(
                parse(&input[..len]),
                Ok(Parsed::Partial { expects }),
                "{len}"
            );
        }
        assert_eq!(whole(input).body, b"{}");
    }

    fn chunked(body: &str) -> Vec<u8> {
        format!(
            "PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n{body}"
        )
        .into_bytes()
    }

    #[test]
    fn request_of_libvirt_9_without_a_body_has_an_empty_chunk() {
        let request = whole(&chunked("0\r\n\r\nGET"));
        assert_eq!(
            (request.body.len(), request.len),
            (0, chunked("0\r\n\r\n").len())
        );
        let whole_body = chunked("2\r\n{\"\r\n4\r\na\":1\r\n0\r\n\r\n");
        assert_eq!(whole(&whole_body).body, b"{\"a\":1");
        for len in chunked("").len()..whole_body.len() {
            let expects = true;
            assert_eq!(parse(&whole_body[..len]), Ok(Parsed::Partial { expects }));
        }
    }

    #[test]
    fn input_that_is_no_request_or_too_long_is_refused() {
        let with = |header: &str| format!("PUT / HTTP/1.1\r\n{header}\r\n\r\n").into_bytes();
        let five_mib = with("Content-Length: 5242880");
        let long = vec![b'G'; HEAD_MAX_BYTES];
        for (input, status) in [
            (b"\0\0\r\n\r\n".to_vec(), 400),
            (with("Content-Length: -1"), 400),
            (with("Content-Length: 1\r\nContent-Length: 1"), 400),
            (with("Transfer-Encoding: gzip"), 400),
            (with("Transfer-Encoding: chunked\r\nContent-Length: 1"), 400),
            (chunked("x\r\n"), 400),
            (chunked("1\r\nabc\r\n"), 400),
            (chunked("500000\r\n"), 413),
            (chunked("ffffffffffffffff\r\n"), 413),
            (with("Content-Length: 99999999999999999999"), 413),
            (five_mib, 413),
            (long, 400),
        ] {
            assert_eq!(parse(&input).unwrap_err().status, status);
        }
    }

    #[test]
    fn answer_has_no_phrase_and_a_204_has_no_length() {
        let done = String::from_utf8(Answer::Done.encode(true)).unwrap();
        assert!(done.starts_with("HTTP/1.1 204 \r\n"), "{done}");
        assert!(!done.to_lowercase().contains("content-length"), "{done}");
        assert!(done.ends_with("\r\n\r\n"), "{done}");
    }

    #[test]
    fn answer_with_a_body_spells_the_length_as_its_clients_look_for_it() {
        let fault = Answer::Refused(Fault::bad("no \"such\" field"));
        let text = String::from_utf8(fault.encode(false)).unwrap();
        let body = r#"["no \"such\" field"]"#;
        let length = format!("\r\nContent-Length: {}\r\n", body.len());
        assert!(
            text.starts_with("HTTP/1.1 400 \r\n") && text.contains(&length),
            "{text}"
        );
        assert!(
            text.ends_with(body) && text.contains("Connection: close"),
            "{text}"
        );
        assert!(fault.encode(true) != fault.encode(false));
    }
}
