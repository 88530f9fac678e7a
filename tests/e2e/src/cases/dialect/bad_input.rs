// SPDX-License-Identifier: Apache-2.0
//! What clients send that is wrong, too much, too slow or too early, while a VM runs.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::client::Answer;
use super::program::Program;
use super::{guest, open_pty, shows};
use crate::context::Context;

/// The dialect's form of an error: an array of sentences.
fn refused(answer: &Answer, status: u16, word: &str) -> Result<()> {
    ensure!(
        answer.status == status,
        "{word}: it was answered {answer:?}"
    );
    let chain: Vec<String> =
        serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
    ensure!(
        chain.join(": ").contains(word),
        "{word:?} is not in {chain:?}"
    );
    Ok(())
}

pub(super) fn case(context: &Context) -> Result<()> {
    // A VM that is to notice nothing.
    let mut witness = Program::of_libvirt(context, "witness")?;
    let mut theirs = witness.connect()?;
    theirs.done(
        "vm.create",
        &json!({"payload": {"kernel": guest(context)?}, "serial": {"mode": "Pty"}}),
    )?;
    theirs.done("vm.boot", &Value::Null)?;
    let mut pty = open_pty(&theirs.info()?)?;
    shows(&mut pty, "up")?;

    let program = Program::at_a_path(context, "bad")?;
    wrong_requests(&program)?;
    wrong_documents(context, &program)?;
    crowds(&program)?;

    let mut client = program.connect()?;
    client.done("vm.boot", &Value::Null)?;
    refused(
        &client.ask("PUT", "vm.boot", &Value::Null)?,
        500,
        "already running",
    )?;
    refused(
        &client.ask("PUT", "vm.create", &json!({}))?,
        500,
        "already created",
    )?;
    refused(
        &client.ask("PUT", "vm.add-net", &json!({"tap": "t"}))?,
        400,
        "while the VM runs",
    )?;
    pty.write_all(b"still here")?;
    shows(&mut pty, "still here")?;
    pty.write_all(b"q")?;
    witness.expect_end(0)?;
    witness.left_nothing()
}

fn wrong_requests(program: &Program) -> Result<()> {
    for (bytes, status, word) in [
        (&b"\0\0\0\r\n\r\n"[..], 400, "Not HTTP"),
        (b"GET /api/v1/vm.none HTTP/1.1\r\n\r\n", 404, "Not Found"),
        (b"PUT /api/v1/vmm.ping HTTP/1.1\r\n\r\n", 400, "vmm.ping"),
        (
            b"PUT /api/v1/vm.resize HTTP/1.1\r\n\r\n",
            400,
            "vm.resize is not supported",
        ),
        (
            b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            400,
            "Content-Length",
        ),
        (b"PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n", 404, "not created"),
    ] {
        refused(&program.connect()?.send(bytes)?, status, word)?;
    }
    let mut huge = b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 5242880\r\n\r\n".to_vec();
    huge.resize(huge.len() + (5 << 20), b' ');
    refused(&program.connect()?.send(&huge)?, 413, "longer than 4194304")
}

fn wrong_documents(context: &Context, program: &Program) -> Result<()> {
    let mut client = program.connect()?;
    let kernel = guest(context)?;
    for (document, word) in [
        (json!([]), "no object"),
        (json!({}), "payload.kernel"),
        (
            json!({"payload": {"kernel": kernel}, "devices": [{"path": "/x"}]}),
            "devices",
        ),
        (
            json!({"payload": {"kernel": kernel}, "console": {"mode": "File"}}),
            "console.mode",
        ),
        (
            json!({"payload": {"kernel": kernel}, "cpus": {"boot_vcpus": -1}}),
            "cpus.boot_vcpus",
        ),
    ] {
        refused(&client.ask("PUT", "vm.create", &document)?, 400, word)?;
    }
    // What only the host can tell is told when it boots.
    client.done("vm.create", &json!({"payload": {"kernel": "/nonexistent"}}))?;
    refused(
        &client.ask("PUT", "vm.boot", &Value::Null)?,
        500,
        "/nonexistent",
    )?;
    client.done("vm.delete", &Value::Null)?;
    client.done("vm.create", &json!({"payload": {"kernel": kernel}}))?;
    refused(
        &client.ask("PUT", "vm.pause", &Value::Null)?,
        500,
        "not running",
    )?;
    let null = |_| File::open("/dev/null").map(OwnedFd::from);
    for (count, word) in [
        (1, "net.fds[0]"),
        (9, "net.num_queues"),
        (253, "net.num_queues"),
    ] {
        let fds = (0..count).map(null).collect::<Result<Vec<_>, _>>()?;
        refused(
            &client.ask_with("PUT", "vm.add-net", &json!({}), &fds)?,
            400,
            word,
        )?;
    }
    Ok(())
}

/// Clients that vanish in the middle, never go on, and are far too many.
fn crowds(program: &Program) -> Result<()> {
    let half = b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"payl";
    for _ in 0..50 {
        program.connect()?.0.write_all(half)?;
    }
    let mut slow = Vec::new();
    for at in 0..300 {
        let client = program.connect()?;
        if at % 3 == 0 {
            (&client.0).write_all(half)?;
        }
        slow.push(client);
    }
    let ping = program.connect()?.ask("GET", "vmm.ping", &Value::Null)?;
    ensure!(ping.status == 200, "it is {ping:?}");
    Ok(())
}
