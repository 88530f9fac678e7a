// SPDX-License-Identifier: Apache-2.0
//! Takes the ELF kernel out of a bzImage (Linux x86 boot protocol, `payload_offset`).

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};

const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// Writes the kernel inside bzImage `packed` to `unpacked`.
pub(crate) fn extract(packed: &Path, unpacked: &Path) -> Result<()> {
    let image = fs::read(packed).with_context(|| format!("cannot read {}", packed.display()))?;
    let payload =
        payload(&image).ok_or_else(|| anyhow!("{} is not a bzImage", packed.display()))?;
    decompress(payload, unpacked).with_context(|| format!("cannot unpack {}", packed.display()))
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let setup_sectors = usize::from(*image.get(SETUP_SECTS)?);
    let start = (setup_sectors + 1) * SECTOR + read_u32(image, PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(read_u32(image, PAYLOAD_LENGTH)?)?)
}

fn read_u32(image: &[u8], offset: usize) -> Option<usize> {
    let bytes = image.get(offset..offset + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// The payload ends in the unpacked size, little-endian: gzip's own trailer, added by the kernel's
/// build for every other format.
fn decompress(payload: &[u8], target: &Path) -> Result<()> {
    let size = payload
        .len()
        .checked_sub(4)
        .and_then(|at| read_u32(payload, at));
    let size = size.context("the payload is too short")?;
    let (program, stream) = match payload {
        [0x1f, 0x8b, ..] => ("gzip", payload),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz", &payload[..payload.len() - 4]),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", &payload[..payload.len() - 4]),
        [0x02, 0x21, 0x4c, 0x18, ..] => ("lz4", &payload[..payload.len() - 4]),
        _ => bail!("an unknown compression"),
    };
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(File::create(target)?)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // Dropping the pipe is what tells the program that there is no more.
    let fed = child.stdin.take().map(|mut pipe| pipe.write_all(stream));
    let status = child.wait()?;
    fed.transpose()
        .with_context(|| format!("{program} stopped reading"))?;
    ensure!(status.success(), "{program}: {status}");
    let got = fs::metadata(target)?.len();
    ensure!(
        u64::try_from(size).is_ok_and(|size| size == got),
        "{got} bytes instead of {size}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_without_the_magic_is_no_bzimage() {
        assert!(payload(&[0; 1024]).is_none());
    }

    #[test]
    fn payload_past_the_end_is_refused() {
        let mut image = vec![0; 4096];
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&u32::MAX.to_le_bytes());

        assert!(payload(&image).is_none());
    }
}
