// SPDX-License-Identifier: Apache-2.0
//! Whether an ELF kernel says where it is entered through PVH (`XEN_ELFNOTE_PHYS32_ENTRY`).

const PT_NOTE: u32 = 4;
const PHYS32_ENTRY: u32 = 18;

/// Looks for the note in every note segment.
pub(crate) fn has_pvh_note(image: &[u8]) -> bool {
    note_segments(image).is_some_and(|segments| segments.into_iter().any(holds_entry))
}

fn note_segments(image: &[u8]) -> Option<Vec<&[u8]>> {
    if image.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let table = read_u64(image, 0x20)?;
    let entry_size = usize::from(read_u16(image, 0x36)?);
    let count = usize::from(read_u16(image, 0x38)?);
    let headers = (0..count).filter_map(|index| image.get(table + index * entry_size..));
    let notes = headers.filter(|header| read_u32(header, 0) == Some(PT_NOTE));
    Some(notes.filter_map(|note| segment(image, note)).collect())
}

fn segment<'a>(image: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let start = read_u64(header, 8)?;
    image.get(start..start.checked_add(read_u64(header, 32)?)?)
}

fn holds_entry(mut notes: &[u8]) -> bool {
    while let Some((name, kind, rest)) = next_note(notes) {
        if name == b"Xen\0" && kind == PHYS32_ENTRY {
            return true;
        }
        notes = rest;
    }
    false
}

fn next_note(notes: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let name_size = usize::try_from(read_u32(notes, 0)?).ok()?;
    let content_size = usize::try_from(read_u32(notes, 4)?).ok()?;
    let name = notes.get(12..)?.get(..name_size)?;
    let next = 12 + name_size.next_multiple_of(4) + content_size.next_multiple_of(4);
    Some((
        name,
        read_u32(notes, 8)?,
        notes.get(next..).unwrap_or_default(),
    ))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_note_of_a_segment_is_found() {
        let other = [
            4, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'G', b'N', b'U', 0, 9, 9, 0, 0,
        ];
        let entry = [
            4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 16, 0,
        ];

        assert!(holds_entry(&[other, entry].concat()));
        assert!(!holds_entry(&other));
    }

    #[test]
    fn something_else_has_no_note() {
        assert!(!has_pvh_note(b"not an ELF file"));
    }
}
