// SPDX-License-Identifier: Apache-2.0
//! The supervisor's filter, compiled when the jailer was built. A filter is inherited: this one is
//! for the supervisor and for all that is ever below it, who confine themselves further. What no
//! process of a VM ever does is not in it: mounting, tracing, leaving a namespace, naming a file.

include!(concat!(env!("OUT_DIR"), "/filters.rs"));
