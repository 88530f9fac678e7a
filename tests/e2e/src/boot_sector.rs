// SPDX-License-Identifier: Apache-2.0
//! A boot sector for firmware of the PC kind: reads sector [`FROM`] with the firmware's help, writes
//! it to sector [`TO`], and says on the first serial port what it says, up to a NUL.

/// The sector that is read.
pub const FROM: u8 = 100;
/// The sector that is written.
pub const TO: u8 = 200;

/// Where the firmware loads a boot sector.
const ORIGIN: u16 = 0x7c00;
/// Where the packet is that says what to read or write, behind the code.
const PACKET: u8 = 0x40;
/// Where a sector is read to.
const BUFFER: [u8; 2] = 0x7e00_u16.to_le_bytes();

/// The 512 bytes.
#[must_use]
pub fn bytes() -> [u8; 512] {
    let [packet, page] = (ORIGIN + u16::from(PACKET)).to_le_bytes();
    let [low, high] = BUFFER;
    #[rustfmt::skip]
    let code = [
        0x31, 0xc0,                         // 00 xor ax, ax
        0x8e, 0xd8,                         // 02 mov ds, ax
        0x8e, 0xd0,                         // 04 mov ss, ax
        0xbc, 0x00, 0x7c,                   // 06 mov sp, 0x7c00
        0xbe, packet, page,                 // 09 mov si, packet
        0xb8, 0x00, 0x42,                   // 0c mov ax, 0x4200: read; dl is the drive
        0xcd, 0x13,                         // 0f int 0x13
        0x72, 0x1d,                         // 11 jc 30
        0xc6, 0x06, packet + 8, page, TO,   // 13 mov byte [packet + 8], TO
        0xb8, 0x00, 0x43,                   // 18 mov ax, 0x4300: write
        0xcd, 0x13,                         // 1b int 0x13
        0x72, 0x11,                         // 1d jc 30
        0xbe, low, high,                    // 1f mov si, buffer
        0xac,                               // 22 lodsb
        0x84, 0xc0,                         // 23 test al, al
        0x74, 0x09,                         // 25 jz 30
        0xba, 0xf8, 0x03,                   // 27 mov dx, 0x3f8
        0xee,                               // 2a out dx, al
        0xeb, 0xf5,                         // 2b jmp 22
        0x90, 0x90, 0x90,                   // 2d nop
        0xf4,                               // 30 hlt
        0xeb, 0xfd,                         // 31 jmp 30
    ];
    // Its length, how many sectors, the buffer's offset and segment, the first sector.
    let request = [16, 0, 1, 0, low, high, 0, 0, FROM, 0, 0, 0, 0, 0, 0, 0];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    let packet = usize::from(PACKET);
    sector[packet..packet + request.len()].copy_from_slice(&request);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
