// SPDX-License-Identifier: Apache-2.0
//! HTTP requests to the API: never more is taken than was sent, a request that is there in full is
//! the same however the bytes arrive, and an error does not go away with more bytes.

use supervisor::http::{self, BODY_MAX_BYTES, HEAD_MAX_BYTES, Refusal, Response};

pub(crate) fn run(data: &[u8]) {
    let whole = http::parse(data);
    match &whole {
        Ok(Some(request)) => {
            assert!(request.len <= data.len() && request.len > 0);
            assert!(request.body.len() <= BODY_MAX_BYTES);
            let exact = http::parse(&data[..request.len]);
            assert_eq!(exact.as_ref(), Ok(&Some(request.clone())));
            let less = http::parse(&data[..request.len - 1]);
            assert_eq!(less, Ok(None), "complete without its last byte");
        }
        Ok(None) => assert!(data.len() < HEAD_MAX_BYTES + BODY_MAX_BYTES),
        Err(refusal) => answer(refusal),
    }
}

/// The answer is one response, whatever the client has put into the reason.
fn answer(refusal: &Refusal) {
    let text = Response::Refused(refusal.clone()).encode(false);
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 4") || head.starts_with("HTTP/1.1 5"));
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    assert!(serde_json::from_str::<spec::api::Fault>(body).is_ok());
}
