// SPDX-License-Identifier: Apache-2.0
//! The API of a VM as an OpenAPI document: `bulkhead schema --api`, which is kept as
//! `docs/openapi.json`. The schemas come from the types that both ends use.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use spec::api::{Event, Events, Fault, Link, Reboot, Restart, Stats, Stop, Stopping, VmInfo};

/// An operation of a VM's API.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    body: Option<Of>,
    answer: Answer,
}

/// The schema of a type.
type Of = fn(&mut SchemaGenerator) -> Schema;

/// The response on success.
enum Answer {
    /// A JSON document.
    Json(Of),
    /// JSON documents, one on each line, until the VM ends.
    Lines(Of),
    /// Bytes.
    Bytes,
    /// Bytes, in chunks, until the VM ends.
    ByteChunks,
    /// Nothing.
    Done,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const OPERATIONS: &[Operation] = &[
    Operation {
        method: "get",
        path: "/v1/vm",
        id: "inspect",
        summary: "The VM as it is now",
        body: None,
        answer: Answer::Json(of::<VmInfo>),
    },
    Operation {
        method: "get",
        path: "/v1/stats",
        id: "stats",
        summary: "What the VM has done so far",
        body: None,
        answer: Answer::Json(of::<Stats>),
    },
    Operation {
        method: "get",
        path: "/v1/vm/events",
        id: "events",
        summary: "What has happened to the VM lately",
        body: None,
        answer: Answer::Json(of::<Events>),
    },
    Operation {
        method: "get",
        path: "/v1/events",
        id: "follow",
        summary: "What has happened to the VM lately, and what happens until it has ended; a client \
                  that does not keep up is dropped",
        body: None,
        answer: Answer::Lines(of::<Event>),
    },
    Operation {
        method: "put",
        path: "/v1/vm/stop",
        id: "stop",
        summary: "Press the power button, or end the VM at once; the button of a paused guest is not \
                  pressed (409)",
        body: Some(of::<Stop>),
        answer: Answer::Json(of::<Stopping>),
    },
    Operation {
        method: "get",
        path: "/v1/vm/console",
        id: "consoleLog",
        summary: "The last 64 KiB that the guest has written to its console, read by a client or not; \
                  refused (409) if the console is a pseudo-terminal, a file or nothing",
        body: None,
        answer: Answer::Bytes,
    },
    Operation {
        method: "get",
        path: "/v1/console",
        id: "followConsole",
        summary: "The same, and what the guest writes until the VM has ended; a client that does not \
                  keep up is dropped",
        body: None,
        answer: Answer::ByteChunks,
    },
    Operation {
        method: "put",
        path: "/v1/vm/reboot",
        id: "reboot",
        summary: "Press the power button and start the guest anew when it has powered off, or reset it \
                  at once; refused (409) before the guest runs, while it is paused, and once the VM was \
                  asked to end",
        body: Some(of::<Reboot>),
        answer: Answer::Done,
    },
    Operation {
        method: "put",
        path: "/v1/vm/pause",
        id: "pause",
        summary: "Stop the vCPUs; answered when all stand still",
        body: None,
        answer: Answer::Done,
    },
    Operation {
        method: "put",
        path: "/v1/vm/resume",
        id: "resume",
        summary: "Let the vCPUs run again",
        body: None,
        answer: Answer::Done,
    },
    Operation {
        method: "put",
        path: "/v1/vm/devices/{id}/restart",
        id: "restartDevice",
        summary: "Replace the backend of a device, or bring one to a device that stalls",
        body: Some(of::<Restart>),
        answer: Answer::Done,
    },
    Operation {
        method: "put",
        path: "/v1/vm/devices/{id}/upgrade",
        id: "upgradeDevice",
        summary: "Replace the program behind a device; its descriptor comes beside any byte of the \
                  request (SCM_RIGHTS), and the answer when it serves or was turned down",
        body: None,
        answer: Answer::Done,
    },
    Operation {
        method: "put",
        path: "/v1/vm/devices/{id}/link",
        id: "setLink",
        summary: "Plug or unplug the cable of a network card",
        body: Some(of::<Link>),
        answer: Answer::Done,
    },
];

const DESCRIPTION: &str = "HTTP/1.1 on the socket api.sock in the VM's state directory, \
    /run/bulkhead/NAME for root. Requests are limited: 8 KiB of request line and headers, 32 headers, \
    64 KiB of body, five seconds, 16 clients of which 8 may follow events or the console. A request may stay \
    without its body where every field has a default.\n\n\
    What is typed on the console is not part of it: VmInfo.console_socket names a unix stream socket. \
    A client reads what the guest writes to its first serial port, beginning with what no client \
    has read yet, and what they write is typed there; nothing is framed or escaped. One client at a \
    time: another one is told that the console is in use, and disconnected.";

/// The OpenAPI document.
pub(crate) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let described = describe(operation, &mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Bulkhead: one VM",
            "version": "1",
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost", "description": "api.sock" }],
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let content = |kind: &str, schema: Schema| json!({ kind: { "schema": schema } });
    let success = match &operation.answer {
        Answer::Json(of) => json!({ "200": {
            "description": "success",
            "content": content("application/json", of(generator)),
        }}),
        Answer::Lines(of) => json!({ "200": {
            "description": "one JSON document on each line, in chunks",
            "content": content("application/x-ndjson", of(generator)),
        }}),
        Answer::Bytes | Answer::ByteChunks => json!({ "200": {
            "description": match &operation.answer {
                Answer::Bytes => "the bytes",
                _ => "the bytes, in chunks",
            },
            "content": { "application/octet-stream": {
                "schema": { "type": "string", "format": "binary" },
            }},
        }}),
        Answer::Done => json!({ "204": { "description": "done" } }),
    };
    let mut responses = success;
    responses["default"] = json!({
        "description": "refused",
        "content": content("application/json", of::<Fault>(generator)),
    });
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": responses,
    });
    if let Some(of) = operation.body {
        let schema = of(generator);
        described["requestBody"] = json!({
            "required": has_required_fields(&schema, generator),
            "content": content("application/json", schema),
        });
    }
    if operation.path.contains("{id}") {
        described["parameters"] = json!([{
            "name": "id",
            "in": "path",
            "required": true,
            "description": "the device, as in VmInfo.devices",
            "schema": { "type": "string" },
        }]);
    }
    described
}

/// Whether the schema that a reference names has required fields.
fn has_required_fields(schema: &Schema, generator: &SchemaGenerator) -> bool {
    let reference = schema.get("$ref").and_then(Value::as_str);
    let name = reference.and_then(|reference| reference.rsplit('/').next());
    let definition = name.and_then(|name| generator.definitions().get(name));
    definition.is_some_and(|definition| definition.get("required").is_some())
}
