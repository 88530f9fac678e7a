// SPDX-License-Identifier: Apache-2.0
//! Why a request is refused, as the dialect tells it: a status, and a chain of causes as a JSON array.

use std::error::Error;

/// A request that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, the cause behind its consequence.
    pub chain: Vec<String>,
}

impl Fault {
    /// A request that is wrong in itself.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self::new(400, reason)
    }

    /// A request that comes before `vm.create`.
    pub fn no_vm() -> Self {
        Self::new(404, "VM is not created: send vm.create first")
    }

    /// A request that the VM does not serve in the state that it is in.
    pub fn wrong_state(reason: impl Into<String>) -> Self {
        Self::new(500, reason)
    }

    /// A refusal of one sentence.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        Self {
            status,
            chain: vec![reason.into()],
        }
    }

    /// What failed on this side: the error and its causes.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| (*error).source());
        Self {
            status: 500,
            chain: causes.map(ToString::to_string).collect(),
        }
    }

    /// The body of the answer.
    pub fn body(&self) -> String {
        serde_json::Value::from(self.chain.clone()).to_string()
    }
}
