// SPDX-License-Identifier: Apache-2.0
//! `docs/openapi.json` against the code: it is what the types say, has the routes that are served and
//! no others, and describes what a VM answers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod stage;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use stage::Stage;

fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn document_is_what_the_types_say() {
    let stage = Stage::new();
    let printed = stage.do_it(&["schema", "--api"]);
    printed.assert_told(0, &[]);
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    let remedy = "bulkhead schema --api >docs/openapi.json";
    assert!(printed == document(), "out of date: {remedy}");
}

#[test]
fn document_has_every_route_and_no_other() {
    let document = document();
    let described = document["paths"].as_object().unwrap().iter();
    let described: BTreeSet<_> = described
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let served = supervisor::ROUTES.iter();
    let served: BTreeSet<_> = served
        .map(|route| (route.method.to_string(), route.path.to_string()))
        .collect();
    assert_eq!(described, served);
}

#[test]
fn document_has_no_reference_that_leads_nowhere() {
    let document = document();
    let text = document.to_string();
    let references = text.split("\"$ref\":\"#").skip(1);
    let references: BTreeSet<_> = references.map(|r| r.split('"').next().unwrap()).collect();
    assert!(references.len() > 10, "{references:?}");
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

/// Asserts that a value has all that its schema requires and nothing that it does not know.
fn assert_fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(&reference[1..]).unwrap();
        return assert_fits(document, schema, value, at);
    }
    if let Some(properties) = schema["properties"].as_object() {
        let object = value.as_object();
        let object = object.unwrap_or_else(|| panic!("{at} is no object: {value}"));
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().unwrap();
            assert!(object.contains_key(name), "{at} lacks {name}");
        }
        for (name, value) in object {
            let at = format!("{at}.{name}");
            let property = properties.get(name);
            let property = property.unwrap_or_else(|| panic!("{at} is not described"));
            assert_fits(document, property, value, &at);
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for value in values {
            assert_fits(document, items, value, at);
        }
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let fits = kinds.iter().any(|kind| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    });
    assert!(fits, "{at} is none of {kinds:?}: {value}");
}

fn ask(stage: &Stage, target: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(stage.at("s/vm/api.sock")).unwrap();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[test]
fn document_describes_what_a_vm_answers() {
    let (stage, document) = (Stage::new(), document());
    let more = &["--detach"];
    stage
        .start("started button off", more)
        .wait()
        .assert_told(0, &[]);
    stage.do_it(&["pause", "vm"]).assert_told(0, &[]);
    for target in ["/v1/vm", "/v1/stats", "/v1/vm/events"] {
        let (status, answer) = ask(&stage, target);
        assert_eq!(status, 200);
        let success = &document["paths"][target]["get"]["responses"]["200"];
        let schema = &success["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{target}");
        assert_fits(&document, schema, &answer, target);
    }
    let (status, fault) = ask(&stage, "/nowhere");
    assert_eq!(status, 404);
    let schema = &document["components"]["schemas"]["Fault"];
    assert_fits(&document, schema, &fault, "fault");
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}
