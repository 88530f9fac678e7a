// SPDX-License-Identifier: Apache-2.0
//! Wrong arguments: each gives one line that names the argument and the value, exit status 1 or 2,
//! and leaves nothing behind.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};

use super::{Case, bad_files};
use crate::arch;
use crate::context::{Context, need_root};
use crate::machine::Machine;
use crate::mounts;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::PATIENCE;

/// What is wrong, and how that must be said.
struct Row {
    /// Completes `bad_input_…_is_refused`.
    name: &'static str,
    /// The argument at fault, as the line must name it.
    argument: &'static str,
    /// The value at fault, or how it begins.
    value: Value,
    /// Every exit status that will do.
    status: &'static [i32],
}

/// A wrong value.
enum Value {
    /// Given as it is.
    Text(&'static str),
    /// This many of a letter.
    Long(usize),
    /// A path where there is nothing.
    NoFile,
    /// A file with this content.
    File(fn() -> Vec<u8>),
    /// A file of this size that takes no space.
    Sparse(u64),
}

pub(super) const USAGE: &[i32] = &[2];
pub(super) const ERROR: &[i32] = &[1, 2];

const ROWS: &[Row] = &[
    row("kernel_missing", "kernel", Value::NoFile, ERROR),
    row("kernel_empty", "kernel", Value::File(Vec::new), ERROR),
    row(
        "kernel_truncated",
        "kernel",
        Value::File(bad_files::truncated_elf),
        ERROR,
    ),
    row(
        "kernel_truncated_in_its_header",
        "kernel",
        Value::File(bad_files::truncated_header),
        ERROR,
    ),
    row(
        "kernel_bzimage_truncated",
        "kernel",
        Value::File(bad_files::truncated_bzimage),
        ERROR,
    ),
    row(
        "kernel_that_is_text",
        "kernel",
        Value::File(bad_files::text),
        ERROR,
    ),
    row(
        "kernel_elf_of_another_architecture",
        "kernel",
        Value::File(bad_files::foreign_elf),
        ERROR,
    ),
    row(
        "kernel_image_of_another_architecture",
        "kernel",
        Value::File(bad_files::foreign_image),
        ERROR,
    ),
    row(
        "kernel_elf_without_pvh",
        "kernel",
        Value::File(bad_files::elf_without_pvh),
        ERROR,
    ),
    row(
        "kernel_image_big_endian",
        "kernel",
        Value::File(bad_files::big_endian_image),
        ERROR,
    ),
    row(
        "kernel_image_without_its_size",
        "kernel",
        Value::File(bad_files::image_without_a_size),
        ERROR,
    ),
    row(
        "kernel_image_in_gzip_cut_short",
        "kernel",
        Value::File(bad_files::gzip_cut_short),
        ERROR,
    ),
    row(
        "kernel_image_compressed_by_zstd",
        "kernel",
        Value::File(bad_files::zstd),
        ERROR,
    ),
    row(
        "kernel_image_in_an_efi_program",
        "kernel",
        Value::File(bad_files::zboot),
        ERROR,
    ),
    row("initrd_missing", "initrd", Value::NoFile, ERROR),
    row(
        "initrd_larger_than_memory",
        "initrd",
        Value::Sparse(1 << 30),
        ERROR,
    ),
    row("mem_zero", "mem", Value::Text("0"), USAGE),
    row(
        "mem_not_a_multiple_of_a_page",
        "mem",
        Value::Text("134217729"),
        USAGE,
    ),
    row(
        "mem_larger_than_the_host_has",
        "mem",
        Value::Text("8T"),
        ERROR,
    ),
    row("mem_without_a_number", "mem", Value::Text("lots"), USAGE),
    row("mem_negative", "mem", Value::Text("-1"), USAGE),
    row("cpus_zero", "cpus", Value::Text("0"), USAGE),
    row(
        "cpus_more_than_kvm_allows",
        "cpus",
        Value::Text("255"),
        ERROR,
    ),
    row("cpus_without_a_number", "cpus", Value::Text("two"), USAGE),
    row(
        "cpu_with_an_unknown_feature",
        "cpu",
        Value::Text("host,+avx9"),
        USAGE,
    ),
    row("cpu_of_no_level", "cpu", Value::Text("x86-64-v5"), USAGE),
    row("cmdline_too_long", "cmdline", Value::Long(2048), ERROR),
    row("name_with_a_slash", "name", Value::Text("../up"), USAGE),
    row(
        "console_unknown",
        "console",
        Value::Text("telepathy"),
        USAGE,
    ),
    row(
        "hugepages_of_an_unknown_size",
        "hugepages",
        Value::Text("4M"),
        USAGE,
    ),
    row("irqchip_unknown", "irqchip", Value::Text("pic"), USAGE),
    row(
        "irqchip_of_another_architecture",
        "irqchip",
        Value::Text(arch::FOREIGN_IRQCHIP),
        ERROR,
    ),
    row(
        "power_button_unknown",
        "power-button",
        Value::Text("big"),
        USAGE,
    ),
    row(
        "log_format_unknown",
        "log-format",
        Value::Text("xml"),
        USAGE,
    ),
    row("on_reboot_unknown", "on-reboot", Value::Text("pray"), USAGE),
    row("config_missing", "config", Value::NoFile, ERROR),
    row(
        "config_with_an_unknown_field",
        "colour",
        Value::File(bad_files::unknown_field),
        ERROR,
    ),
    row(
        "config_that_is_no_json",
        "config",
        Value::File(bad_files::text),
        ERROR,
    ),
];

/// Those that spoil what only x86_64 boots.
const ELF_ROWS: [&str; 4] = [
    "kernel_truncated",
    "kernel_bzimage_truncated",
    "kernel_elf_of_another_architecture",
    "kernel_elf_without_pvh",
];

/// How the names of those begin that spoil what only the other architectures boot.
const IMAGE_ROWS: &str = "kernel_image_";
const NO_IMAGE: &str = "it spoils an Image, which x86_64 does not boot";
/// It is about the header that an image of x86_64 has, too.
const FOREIGN: &str = "kernel_image_of_another_architecture";

const fn row(
    name: &'static str,
    argument: &'static str,
    value: Value,
    status: &'static [i32],
) -> Row {
    Row {
        name,
        argument,
        value,
        status,
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ROWS
        .iter()
        .map(|row| {
            let name = format!("bad_input_{}_is_refused", row.name);
            let case = Case::native(name, |context| refused(context, row));
            match row.name {
                name if ELF_ROWS.contains(&name) => case.only_on_x86(
                    "it spoils an ELF file or a bzImage, which other machines do not boot",
                ),
                name if name.starts_with(IMAGE_ROWS) && name != FOREIGN => {
                    case.not_on(&[Machine::X86], NO_IMAGE)
                }
                _ => case,
            }
        })
        .collect();
    cases.extend([
        Case::native(
            "bad_input_kernel_image_larger_than_memory_is_refused",
            large_image,
        )
        .not_on(&[Machine::X86], NO_IMAGE),
        Case::native("bad_input_unknown_flag_is_refused", unknown_flag),
        Case::native("bad_input_no_kernel_at_all_is_refused", no_kernel),
        Case::native("bad_input_name_in_use_is_refused", name_in_use),
        Case::native("bad_input_without_dev_kvm_is_refused", no_kvm),
        Case::native(
            "bad_input_with_another_device_as_dev_kvm_is_refused",
            not_kvm,
        ),
        Case::native(
            "bad_input_with_dev_kvm_not_permitted_is_refused",
            kvm_not_permitted,
        ),
    ]);
    cases
}

fn refused(context: &Context, row: &Row) -> Result<()> {
    let kernel = context.no_os_kernel(&NoOsKernel::new().power_off())?;
    let value = match row.value {
        Value::Text(text) => text.to_owned(),
        Value::Long(length) => "x".repeat(length),
        Value::NoFile => context.dir().join("nothing-here").display().to_string(),
        Value::File(make) => context.file("bad-file", &make())?.display().to_string(),
        Value::Sparse(size) => context.sparse_file("bad-file", size)?.display().to_string(),
    };
    let named = match row.value {
        Value::Long(_) => &value[..16],
        _ => &value,
    };
    let flag = match row.argument {
        "colour" => "--config",
        argument => &format!("--{argument}"),
    };
    let mut command = context.bulkhead();
    command.arg("run");
    if !["--kernel", "--config"].contains(&flag) {
        command.arg("--kernel").arg(kernel);
    }
    if flag != "--name" {
        command.args(["--name", &context.name_of("bad")]);
    }
    if flag == "--initrd" {
        command.args(["--mem", "128M"]);
    }
    command.arg(format!("{flag}={value}"));
    complains(&mut command, row.status, &[row.argument, named])
}

/// Runs a command that must fail with one line that has `words` in it.
pub(super) fn complains(command: &mut Command, status: &[i32], words: &[&str]) -> Result<()> {
    let output = command.output().context("cannot run bulkhead")?;
    let said = shown(&output);
    println!("{command:?}\n{}\n{said}", output.status);
    let lines = said.lines().count();
    ensure!(lines == 1, "{lines} lines on standard error");
    for word in words {
        ensure!(said.contains(word), "the line does not name {word:?}");
    }
    let code = output.status.code().unwrap_or(-1);
    ensure!(
        status.contains(&code),
        "the exit status is {code}, not one of {status:?}"
    );
    ensure!(output.stdout.is_empty(), "something on standard output");
    Ok(())
}

fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn large_image(context: &Context) -> Result<()> {
    let image = context.file("bad-file", &bad_files::image_of_an_exbibyte())?;
    let mut command = context.bulkhead();
    command.arg("run").arg("--kernel").arg(image);
    command.args(["--mem", "512M", "--name", &context.name_of("bad")]);
    complains(&mut command, ERROR, &["mem", "512M", "the kernel needs"])
}

fn unknown_flag(context: &Context) -> Result<()> {
    complains(
        context.bulkhead().args(["run", "--kernle", "x"]),
        USAGE,
        &["--kernle"],
    )
}

fn no_kernel(context: &Context) -> Result<()> {
    complains(context.bulkhead().arg("run"), USAGE, &["kernel"])
}

fn name_in_use(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut vm = context.vm("taken").boots_no_os(&kernel).start()?;
    vm.wait_for("hello\n", PATIENCE)?;

    let mut second = context.vm("taken").boots_no_os(&kernel).command()?;
    let refused = complains(&mut second, ERROR, &["name", vm.name()]);
    let running = context.run_ok(&["ps"])?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.wait_exit(PATIENCE)?;

    ensure!(running.contains(vm.name()), "the first VM did not survive");
    refused
}

/// `bulkhead run` in a mount namespace of its own, after `script` has changed what is mounted.
pub(super) fn with_mounts(context: &Context, script: &str) -> Result<Command> {
    need_root()?;
    let kernel = context.no_os_kernel(&NoOsKernel::new().power_off())?;
    let mut run = context.bulkhead();
    run.arg("run").arg("--kernel").arg(kernel);
    run.args(["--name", &context.name_of("bad")]);
    let mut command = mounts::after(script, &run);
    context.prepare(&mut command);
    Ok(command)
}

fn no_kvm(context: &Context) -> Result<()> {
    let script = "mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3";
    complains(&mut with_mounts(context, script)?, ERROR, &["/dev/kvm"])
}

fn not_kvm(context: &Context) -> Result<()> {
    let script = "mount --bind /dev/null /dev/kvm";
    complains(&mut with_mounts(context, script)?, ERROR, &["/dev/kvm"])
}

fn kvm_not_permitted(context: &Context) -> Result<()> {
    // A file system that denies everybody, root too, the opening of devices.
    let script = "mount -t tmpfs -o nodev shut /mnt && mknod -m 666 /mnt/kvm c 10 232 \
                  && mount --bind /mnt/kvm /dev/kvm";
    complains(&mut with_mounts(context, script)?, ERROR, &["/dev/kvm"])
}
