// SPDX-License-Identifier: Apache-2.0
//! What is a request, what is not one yet, and what will never be one.

use super::*;

const GET: &str = "GET /v1/vm HTTP/1.1\r\nHost: x\r\n\r\n";
const PUT: &str =
    "PUT /v1/vm/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"force\":true}";

fn with(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

fn status(input: &str) -> u16 {
    parse(input.as_bytes()).unwrap_err().status
}

#[test]
fn request_complete_is_parsed_and_what_follows_is_left() {
    let input = format!("{PUT}{GET}");
    let put = parse(input.as_bytes()).unwrap().unwrap();
    assert_eq!(
        (put.method.as_str(), put.target.as_str()),
        ("PUT", "/v1/vm/stop")
    );
    assert_eq!(
        (put.body.as_slice(), put.len),
        (&b"{\"force\":true}"[..], PUT.len())
    );
    let get = parse(&input.as_bytes()[put.len..]).unwrap().unwrap();
    assert_eq!((get.method.as_str(), get.len), ("GET", GET.len()));
    assert!(get.keep_alive && get.body.is_empty());
}

#[test]
fn request_cut_anywhere_is_not_there_yet() {
    for len in 0..PUT.len() {
        assert_eq!(parse(&PUT.as_bytes()[..len]), Ok(None), "{len}");
    }
}

#[test]
fn request_mutated_anywhere_does_not_panic() {
    for at in 0..PUT.len() {
        for byte in 0..=255 {
            let mut input = PUT.as_bytes().to_vec();
            input[at] = byte;
            if let Ok(Some(request)) = parse(&input) {
                assert!(request.len <= input.len());
            }
        }
    }
}

#[test]
fn connection_is_kept_as_the_client_says() {
    for (headers, kept) in [
        ("", true),
        ("Connection: close\r\n", false),
        ("connection: Keep-Alive, CLOSE\r\n", false),
    ] {
        let request = parse(with(headers).as_bytes()).unwrap().unwrap();
        assert_eq!(request.keep_alive, kept, "{headers}");
    }
    for (input, kept) in [
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        assert_eq!(parse(input.as_bytes()).unwrap().unwrap().keep_alive, kept);
    }
}

#[test]
fn request_malformed_is_400() {
    for input in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        &with("Content-Length: \r\n"),
        &with("Content-Length: -1\r\n"),
        &with("Content-Length: +1\r\n"),
        &with("Content-Length: 1, 1\r\n"),
        &with("Content-Length: 0x10\r\n"),
        &with("Content-Length: 1\r\nContent-Length: 1\r\n"),
    ] {
        assert_eq!(status(input), 400, "{input:?}");
    }
}

#[test]
fn request_too_large_is_refused_before_it_is_read() {
    let body = format!("Content-Length: {}\r\n", BODY_MAX_BYTES + 1);
    assert_eq!(status(&with(&body)), 413);
    assert_eq!(
        status(&with("Content-Length: 99999999999999999999999\r\n")),
        413
    );
    let long = format!("X: {}\r\n", "x".repeat(HEAD_MAX_BYTES));
    assert_eq!(status(&with(&long)), 431);
    assert_eq!(status(&"x".repeat(HEAD_MAX_BYTES)), 431);
    assert_eq!(status(&with(&"X: y\r\n".repeat(HEADERS_MAX))), 431);
}

#[test]
fn request_at_its_limits_is_accepted() {
    let headers = "X: y\r\n".repeat(HEADERS_MAX - 2);
    let mut input = with(&format!("{headers}Content-Length: {BODY_MAX_BYTES}\r\n")).into_bytes();
    input.resize(input.len() + BODY_MAX_BYTES, b' ');
    let request = parse(&input).unwrap().unwrap();
    assert_eq!(
        (request.body.len(), request.len),
        (BODY_MAX_BYTES, input.len())
    );
}

#[test]
fn request_of_another_kind_is_refused_as_such() {
    assert_eq!(status(&with("Transfer-Encoding: chunked\r\n")), 501);
    assert_eq!(status("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
}

#[test]
fn response_has_length_type_and_what_its_status_asks_for() {
    let text = |response: Response, kept| String::from_utf8(response.encode(kept)).unwrap();
    assert_eq!(
        text(Response::Json("{}".into()), true),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    );
    assert_eq!(
        text(Response::Done, false),
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    );
    let mut refusal = Refusal::new(405, "a \"quoted\" reason");
    refusal.allow = Some("GET");
    let refused = text(Response::Refused(refusal), true);
    assert!(refused.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n"));
    assert!(
        refused.ends_with(r#"{"error":"a \"quoted\" reason"}"#),
        "{refused}"
    );
}
