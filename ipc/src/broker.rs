// SPDX-License-Identifier: Apache-2.0
//! The protocol between supervisor and jailer: JSON messages over one SOCK_SEQPACKET socket.
//!
//! The jailer has the host's privileges, so this enum is all that a compromised supervisor can ask
//! of the host. The jailer answers a question with one message and otherwise only forwards signals.
//! Answers come in any order: a child process does whatever may wait for storage.

use serde::{Deserialize, Serialize};

use crate::record::Geometry;

mod reason;
mod status;

pub use reason::Reason;
pub use status::Status;

/// The longest line that the jailer prints for the supervisor, in bytes: even with every byte
/// escaped it fits into a message.
pub const LINE_MAX_BYTES: usize = 512;
/// How many lines the jailer prints for the supervisor.
pub const LINES_MAX: usize = 64;

/// What the supervisor tells or asks the jailer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToJailer {
    /// The guest has started.
    Started,
    /// A line for the user, to be printed when the VM has ended.
    Line(String),
    /// The VM has ended.
    Ended(Status, Reason),
    /// A question, with a number that the answer repeats.
    Ask(u32, Question),
}

/// Requests that need the host's privileges or view. An answer takes as long as the storage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Open once more the image of the disk at this place in the spec.
    ReopenDisk(u8),
    /// Wait until the last holder of the opening of that image with this mark has closed it.
    DiskReleased(u8, i64),
    /// fdatasync(2) the opening of that image that is as old as the VM, which reports whether
    /// writes were lost.
    SyncDisk(u8),
    /// Connect to the backend of the external device at this place: first the devices that passt
    /// serves, for which the jailer starts a new passt, then the vhost-user devices, as in the
    /// spec.
    ConnectForeign(u8),
    /// The host's pid of the process whose pidfd comes with this message. It is a child of the
    /// supervisor and runs as this user of the VM; the jailer moves it into the control group of
    /// that name.
    HostPid(u8),
    /// How many processes of the VM the kernel has killed for want of memory.
    OomKills,
}

/// What the jailer tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// The user sent this signal to the jailer.
    Signal(i32),
    /// The answer to the question of this number.
    Answer(u32, Answer),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The descriptor is attached to this message.
    Opened,
    /// The opening of the image is attached to this message.
    Reopened(Reopened),
    /// The last holder of the opening has closed it.
    Released,
    /// fdatasync(2) has returned: 0, or an errno if writes were lost.
    Synced(i32),
    /// The host's pid of the process.
    HostPid(i32),
    /// As many processes were killed.
    OomKills(u64),
    /// It failed: an errno.
    Refused(i32),
}

/// What the supervisor learns about an opening of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reopened {
    /// The byte that only this opening has marked, for [`Question::DiskReleased`].
    pub mark: i64,
    /// The image's geometry now, or why it cannot be a disk any more.
    pub geometry: Result<Geometry, String>,
}

/// The line, cut to [`LINE_MAX_BYTES`].
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
