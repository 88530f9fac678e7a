// SPDX-License-Identifier: Apache-2.0
//! The supervisor's filter, compiled when the jailer is built. Every child inherits it, and
//! confines itself further. It lacks what no process of a VM ever does: mount, trace, leave a
//! namespace, name a file.

include!(concat!(env!("OUT_DIR"), "/filters.rs"));
