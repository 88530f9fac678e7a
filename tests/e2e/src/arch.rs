// SPDX-License-Identifier: Apache-2.0
//! What the tests know of the processor that they run on. The only file of this crate that looks at
//! `target_arch`.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod hammer_code;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
