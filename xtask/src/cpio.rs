// SPDX-License-Identifier: Apache-2.0
//! Writing cpio archives in the "newc" format, which is what a kernel unpacks as its initramfs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

/// An archive in memory, root-owned and without times, so equal content gives equal bytes.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn directory(&mut self, name: &str) -> Result<()> {
        self.member(name, DIRECTORY, (0, 0), &[])
    }

    /// A file that may be executed.
    pub(crate) fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.member(name, PROGRAM, (0, 0), content)
    }

    /// A file that may be executed, copied from `path`.
    pub(crate) fn program_from(&mut self, name: &str, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.program(name, &content)
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.member(name, SYMLINK, (0, 0), target.as_bytes())
    }

    /// `/dev/console`, without which init starts with no standard streams.
    pub(crate) fn console_device(&mut self) -> Result<()> {
        self.member("dev/console", CONSOLE, (5, 1), &[])
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.member("TRAILER!!!", 0, (0, 0), &[])?;
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        Ok(self.bytes)
    }

    fn member(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let name_size = u32::try_from(name.len() + 1).context("a name is too long")?;
        self.inode += 1;
        let (major, minor) = device;
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_with_a_file_has_its_header_name_and_content() {
        let mut archive = Archive::new();
        archive.program("init", b"hi").unwrap();
        let bytes = archive.finish().unwrap();

        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..118], b"hi");
        assert_eq!(bytes.len() % 512, 0);
    }
}
