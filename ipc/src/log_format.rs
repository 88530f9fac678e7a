// SPDX-License-Identifier: Apache-2.0
//! How the processes of a VM write lines to its log.

use serde::{Deserialize, Serialize};

/// How a process writes lines to the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// Each line is a JSON object.
    Json,
}
