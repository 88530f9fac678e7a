// SPDX-License-Identifier: Apache-2.0
//! What the documents say of the sources holds: proofs that are named are there, messages that are
//! quoted are printed.

mod messages;
mod proofs;
