// SPDX-License-Identifier: Apache-2.0
//! What jailer and supervisor say to each other: JSON messages over one SOCK_SEQPACKET socket.
//!
//! The jailer has the host's privileges, so this enum is all that a compromised supervisor can
//! ask of the host. It answers a question with one message and otherwise only passes signals on.
//! Answers come in any order: what may wait for storage is done by a process of its own.

use serde::{Deserialize, Serialize};

use crate::record::Geometry;

mod status;

pub use status::Status;

/// The longest line the supervisor may have printed, in bytes: it fits into a message however it is
/// escaped.
pub const LINE_MAX_BYTES: usize = 512;
/// How many lines the supervisor may have printed.
pub const LINES_MAX: usize = 64;

/// What the supervisor tells or asks the jailer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToJailer {
    /// The guest has started.
    Started,
    /// A line for the user, when the VM has ended.
    Line(String),
    /// The VM has ended.
    Ended(Status),
    /// A question, with a number that comes back with its answer.
    Ask(u32, Question),
}

/// What only the jailer can do: it sees the host. An answer takes as long as the storage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Open the image of the disk at this place in the spec once more.
    ReopenDisk(u8),
    /// Wait until the opening of that image with this mark is closed by its last user.
    DiskReleased(u8, i64),
    /// Ask the opening of that image that is as old as the VM whether everything that was written is on
    /// stable storage: fdatasync(2).
    SyncDisk(u8),
    /// Connect to the backend of the device of another program at this place: those that passt
    /// serves, for which it is started anew, then the vhost-user devices, as in the spec.
    ConnectForeign(u8),
    /// What number has the process on the host whose pidfd comes with this message? It is a child of
    /// the supervisor's and this user of the VM's, and is put into the control group of that name.
    HostPid(u8),
}

/// What the jailer tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// The user sent this signal.
    Signal(i32),
    /// The answer to the question of this number.
    Answer(u32, Answer),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Here it is, with this message.
    Opened,
    /// Here is the opening of the image, with this message.
    Reopened(Reopened),
    /// Nobody has the opening any more.
    Released,
    /// Everything is on stable storage but for what was lost: 0, or an errno.
    Synced(i32),
    /// The number of the process.
    HostPid(i32),
    /// It cannot be had: an errno.
    Refused(i32),
}

/// What is known of an opening of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reopened {
    /// The byte that this opening alone has marked, for [`Question::DiskReleased`].
    pub mark: i64,
    /// What the image is now, or why it is no disk any more.
    pub geometry: Result<Geometry, String>,
}

/// What of a line may be told.
pub fn clip(line: &str) -> &str {
    &line[..line.floor_char_boundary(LINE_MAX_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::MESSAGE_MAX_BYTES;

    #[test]
    fn line_of_the_worst_characters_fits_into_a_message_when_clipped() {
        for filler in ["\u{1}", "\u{10ffff}", "\"", "x"] {
            let line = filler.repeat(2000);
            let text = serde_json::to_vec(&ToJailer::Line(clip(&line).into())).unwrap();
            assert!(text.len() < MESSAGE_MAX_BYTES, "{filler:?}");
        }
    }

    #[test]
    fn line_is_clipped_at_a_character_and_only_if_it_is_long() {
        assert_eq!(clip("short"), "short");
        assert_eq!(clip(&"x".repeat(2000)), "x".repeat(LINE_MAX_BYTES));
        assert_eq!(
            clip(&"\u{ffff}".repeat(2000)).len(),
            LINE_MAX_BYTES - LINE_MAX_BYTES % 3
        );
    }
}
