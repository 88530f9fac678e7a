// SPDX-License-Identifier: Apache-2.0
//! Vmms that are replaced while an interrupt of their guest is on its way: a message whose vector is
//! masked, a line that waits to be served, an edge at a masked pin, and timers that are due meanwhile. A guest of a few
//! hundred bytes says what comes of it (`no_os_kernel/interrupts.rs`).

use std::time::Instant;

use anyhow::{Result, ensure};

use super::Case;
use super::vmm_replaced::SAVED;
use crate::context::Context;
use crate::inspect::quietly;
use crate::no_os_kernel::NoOsKernel;
use crate::no_os_kernel::interrupts::answer;
use crate::vm::{PATIENCE, Vm};

/// In the low half of an entry of the IOAPIC.
const REMOTE_IRR: u32 = 1 << 14;
/// How often the vmm is replaced under each kind of timer, and how many timers must have come at least.
const TIMES: u32 = 25;
const TIMERS: u32 = 150;
/// The orders for timers, and their counters: one-shot, periodic, and deadlines, which not every KVM has.
const KINDS: [(char, char); 3] = [('a', '4'), ('b', '5'), (DEADLINE, '6')];
const DEADLINE: char = 'd';
/// How many timers may come twice: KVM does not tell of one that is due whether its interrupt is on its way into
/// the vCPU at that very moment. A vmm that never knew repeated about six.
const TWICE: u32 = 2;
/// What a periodic timer may come early or more often by, in parts of all.
const SLACK: u32 = 100;

pub(super) fn cases() -> Vec<Case> {
    let native =
        |name: &str, case: fn(&Context) -> Result<()>| Case::native(name, case).only_on_x86(SAVED);
    vec![
        native(
            "vmm_replaced_while_a_message_is_masked_keeps_it_pending",
            message,
        ),
        native(
            "vmm_replaced_while_a_line_waits_and_an_edge_is_masked_delivers_each_once",
            line_and_edge,
        ),
        native(
            "vmm_replaced_between_timers_loses_none_and_repeats_none",
            timers,
        ),
    ]
}

fn start(context: &Context, name: &str) -> Result<Vm> {
    let image = context.sparse_file(name, 1 << 20)?;
    let kernel = NoOsKernel::new().say("ready\n").take_interrupts();
    let builder = context.vm(name).boots_no_os(&kernel);
    let disk = format!("path={}", image.display());
    let mut vm = builder.arg("--disk", disk).start()?;
    vm.wait_for("ready\n", PATIENCE)?;
    Ok(vm)
}

/// Gives the guest an order; returns its answer.
fn order(vm: &mut Vm, order: char) -> Result<u32> {
    vm.type_text(&order.to_string())?;
    vm.wait_for(&order.to_string(), PATIENCE)?;
    answer(&vm.line()?)
}

/// Gives an order again and again until the answer is the one that is wanted.
fn until(vm: &mut Vm, letter: char, right: impl Fn(u32) -> bool) -> Result<u32> {
    let begun = Instant::now();
    loop {
        let answer = order(vm, letter)?;
        if right(answer) {
            return Ok(answer);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{letter} is still answered with {answer:#x}"
        );
    }
}

fn replace(context: &Context, vm: &Vm) -> Result<()> {
    quietly(context, &["restart", vm.name(), "vmm", "--wait"]).map(drop)
}

/// Checks that a counter has come to rest at this number.
fn stays(vm: &mut Vm, counter: char, count: u32) -> Result<()> {
    for _ in 0..20 {
        let now = order(vm, counter)?;
        ensure!(now == count, "{counter} came {now} times, not {count}");
    }
    Ok(())
}

fn end(mut vm: Vm) -> Result<()> {
    vm.type_text("Q")?;
    vm.expect_exit(0)
}

/// After each replacement the queue's interrupt is sent once more. So before the second one it is sent by
/// another vector: that the first is pending, the next vmm only knows from the one before.
fn message(context: &Context) -> Result<()> {
    let mut vm = start(context, "message")?;
    order(&mut vm, 'm')?;
    ensure!(order(&mut vm, 's')? == 0, "the disk has failed");
    until(&mut vm, 'p', |bits| bits == 1)?;
    replace(context, &vm)?;
    ensure!(order(&mut vm, 'p')? == 1, "it is not pending any more");
    ensure!(order(&mut vm, 'n')? == 1, "there is no second vector");
    replace(context, &vm)?;
    ensure!(order(&mut vm, 'p')? & 1 == 1, "it is not pending any more");
    until(&mut vm, 'p', |bits| bits == 3)?;
    stays(&mut vm, '0', 0)?;
    order(&mut vm, 'u')?;
    until(&mut vm, '0', |count| count > 0)?;
    stays(&mut vm, '0', 1)?;
    ensure!(order(&mut vm, 'p')? == 2, "it is still pending");
    stays(&mut vm, '1', 0)?;
    end(vm)
}

/// The guest takes no interrupts meanwhile: the line's waits for it in the local APIC.
fn line_and_edge(context: &Context) -> Result<()> {
    let mut vm = start(context, "line")?;
    let in_service = |vm: &mut Vm| Ok::<_, anyhow::Error>(order(vm, 'r')? & REMOTE_IRR != 0);
    ensure!(order(&mut vm, 'w')? == 1, "it takes interrupts");
    order(&mut vm, 'l')?;
    ensure!(order(&mut vm, 's')? == 0, "the disk has failed");
    until(&mut vm, 'r', |entry| entry & REMOTE_IRR != 0)?;
    replace(context, &vm)?;
    ensure!(in_service(&mut vm)?, "remote IRR is lost");
    stays(&mut vm, '2', 0)?;
    ensure!(order(&mut vm, 'w')? == 0, "it takes no interrupts");
    until(&mut vm, '2', |count| count > 0)?;
    until(&mut vm, 'r', |entry| entry & REMOTE_IRR == 0)?;
    ensure!(order(&mut vm, 's')? == 0, "the disk has failed");
    until(&mut vm, '2', |count| count > 1)?;
    until(&mut vm, 'r', |entry| entry & REMOTE_IRR == 0)?;
    // Once for each request, and the queue's interrupt was sent once more.
    let count = order(&mut vm, '2')?;
    ensure!(count <= 3, "{count} interrupts of two requests");
    stays(&mut vm, '2', count)?;

    order(&mut vm, 'k')?;
    replace(context, &vm)?;
    stays(&mut vm, '3', 0)?;
    order(&mut vm, 'o')?;
    until(&mut vm, '3', |count| count > 0)?;
    replace(context, &vm)?;
    stays(&mut vm, '3', 1)?;
    end(vm)
}

/// Each timer but the periodic one is set when the one before has come: if one is lost, none comes any
/// more, and one that comes twice comes early.
fn timers(context: &Context) -> Result<()> {
    let mut vm = start(context, "timers")?;
    for (kind, counter) in KINDS {
        let begun = Instant::now();
        if order(&mut vm, kind)? == 0 && kind == DEADLINE {
            println!("SEEN vmm_replaced_between_timers: this host's KVM has no deadlines");
            continue;
        }
        for _ in 0..TIMES {
            let before = order(&mut vm, counter)?;
            replace(context, &vm)?;
            until(&mut vm, counter, |count| count > before + 1)?;
        }
        until(&mut vm, counter, |count| count >= TIMERS)?;
        order(&mut vm, 'x')?;
        let count = order(&mut vm, counter)?;
        let passed_ms = u32::try_from(begun.elapsed().as_millis())?;
        println!("SEEN vmm_replaced_between_timers kind={kind} count={count} in_ms={passed_ms}");
        if kind != DEADLINE {
            let most = passed_ms + passed_ms / SLACK + TIMES;
            ensure!(count <= most, "{count} timers in {passed_ms} ms");
        }
    }
    let twice = order(&mut vm, '8')? + order(&mut vm, '9')?;
    println!("SEEN vmm_replaced_between_timers twice={twice}");
    ensure!(twice <= TWICE, "{twice} timers came twice");
    end(vm)
}
