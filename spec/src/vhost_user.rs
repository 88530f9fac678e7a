// SPDX-License-Identifier: Apache-2.0
//! A device with an external vhost-user backend: [`VhostUserSpec`] as the user writes it,
//! [`VhostUser`] validated.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ipc::slot::DeviceSlot;
use serde::{Deserialize, Serialize};

use crate::SpecError;
use crate::device::{
    DeviceId, check_queue_size, check_queues, escaped, number, options, unescaped, unknown,
};

/// The longest tag of a virtio file system, in bytes.
pub const TAG_MAX_BYTES: usize = 36;
/// The highest virtio device id there is room for: PCI device ids from 0x1040 to 0x107f.
const VIRTIO_ID_MAX: u8 = 63;

/// The type of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VhostUserType {
    /// `fs`: a file system, such as virtiofsd's.
    Fs,
    /// `vsock`: a socket.
    Vsock,
    /// `rng`: a source of entropy.
    Rng,
    /// `blk`: a disk.
    Blk,
    /// `net`: a network card.
    Net,
    /// Any other one: its virtio device id, 1 to 63.
    Other(u8),
}

impl VhostUserType {
    /// Its default number of virtqueues.
    fn default_queues(self) -> u32 {
        match self {
            // The high-priority queue and a request queue.
            Self::Fs => 2,
            // Receive, transmit and event queue.
            Self::Vsock => 3,
            Self::Net => 2,
            Self::Rng | Self::Blk | Self::Other(_) => 1,
        }
    }
}

impl FromStr for VhostUserType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fs" => Ok(Self::Fs),
            "vsock" => Ok(Self::Vsock),
            "rng" => Ok(Self::Rng),
            "blk" => Ok(Self::Blk),
            "net" => Ok(Self::Net),
            _ => match text.parse() {
                Ok(id @ 1..=VIRTIO_ID_MAX) => Ok(Self::Other(id)),
                _ => Err(format!(
                    "type {text:?}: expected fs, vsock, rng, blk, net or a virtio device id \
                     from 1 to {VIRTIO_ID_MAX}"
                )),
            },
        }
    }
}

impl fmt::Display for VhostUserType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fs => f.write_str("fs"),
            Self::Vsock => f.write_str("vsock"),
            Self::Rng => f.write_str("rng"),
            Self::Blk => f.write_str("blk"),
            Self::Net => f.write_str("net"),
            Self::Other(id) => write!(f, "{id}"),
        }
    }
}

impl TryFrom<String> for VhostUserType {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<VhostUserType> for String {
    fn from(kind: VhostUserType) -> Self {
        kind.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for VhostUserType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VhostUserType".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "The type of a device, or its virtio device id.",
            "type": "string",
            "pattern": "^(fs|vsock|rng|blk|net|[1-9]|[1-5][0-9]|6[0-3])$"
        })
    }
}

/// A device as it is written: `--vhost-user type=T,socket=F[,option]...`, or an object in
/// `vhost_user`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VhostUserSpec {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: VhostUserType,
    /// The socket its backend listens on.
    pub socket: PathBuf,
    /// Its name; by default `vhost` and its number, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What the guest mounts a file system by; for `fs` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The number of virtqueues of any kind, 1 to 16; by default as few as the type needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u32>,
    /// The entries of a queue: a power of two from 16 to 1024.
    #[serde(default = "default_queue_size")]
    pub queue_size: u32,
    /// Its device number on the guest's PCI bus, 1 to 24; by default the first one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

fn default_queue_size() -> u32 {
    256
}

impl FromStr for VhostUserSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut kind, mut socket, mut id, mut tag) = (None, None, None, None);
        let (mut queues, mut queue_size, mut slot) = (None, default_queue_size(), None);
        for (key, value) in options(text)? {
            match (key, value) {
                ("type", Some(text)) => kind = Some(text.parse()?),
                ("socket", Some(path)) if !path.is_empty() => {
                    socket = Some(unescaped(path).into());
                }
                ("id", Some(text)) => id = Some(text.into()),
                ("tag", Some(text)) => tag = Some(unescaped(text)),
                ("queues", Some(n)) => queues = Some(number(key, n)?),
                ("queue-size", Some(n)) => queue_size = number(key, n)?,
                ("slot", Some(n)) => slot = Some(number(key, n)?),
                ("type" | "socket" | "id" | "tag" | "queues" | "queue-size" | "slot", _) => {
                    return Err(format!("{key} needs a value"));
                }
                _ => return Err(unknown(key, "a vhost-user device")),
            }
        }
        Ok(Self {
            kind: kind.ok_or("type= is missing")?,
            socket: socket.ok_or("socket= is missing")?,
            id,
            tag,
            queues,
            queue_size,
            slot,
        })
    }
}

/// The options as text, without those at their defaults.
impl fmt::Display for VhostUserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = escaped(self.socket.display());
        write!(f, "type={},socket={socket}", self.kind)?;
        if let Some(id) = &self.id {
            write!(f, ",id={id}")?;
        }
        if let Some(tag) = &self.tag {
            write!(f, ",tag={}", escaped(tag))?;
        }
        if let Some(queues) = self.queues {
            write!(f, ",queues={queues}")?;
        }
        if self.queue_size != default_queue_size() {
            write!(f, ",queue-size={}", self.queue_size)?;
        }
        if let Some(slot) = self.slot {
            write!(f, ",slot={slot}")?;
        }
        Ok(())
    }
}

/// A device's type, validated, with what only this type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VhostUserKind {
    /// A file system and its tag.
    Fs(String),
    /// A socket.
    Vsock,
    /// A source of entropy.
    Rng,
    /// A disk.
    Blk,
    /// A NIC.
    Net,
    /// Another one: its virtio device id.
    Other(u8),
}

/// A device, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUser {
    /// Its name.
    pub id: DeviceId,
    /// Its type.
    pub kind: VhostUserKind,
    /// The socket its backend listens on.
    pub socket: PathBuf,
    /// The number of virtqueues, 1 to 16.
    pub queues: u16,
    /// The entries of a queue: a power of two from 16 to 1024.
    pub queue_size: u16,
    /// Its place on the guest's PCI bus, which no other device has.
    pub slot: DeviceSlot,
}

impl VhostUser {
    /// Checks the device with this number, which gets `slot`.
    pub(crate) fn check(
        number: usize,
        spec: VhostUserSpec,
        slot: DeviceSlot,
    ) -> Result<Self, SpecError> {
        if spec.socket.as_os_str().is_empty() {
            return Err(SpecError::new(
                "vhost-user.socket",
                "",
                "must name a socket",
            ));
        }
        let id = DeviceId::given_or("vhost-user.id", spec.id, "vhost", number)?;
        let queues = spec.queues.unwrap_or_else(|| spec.kind.default_queues());
        if spec.kind == VhostUserType::Fs && queues < 2 {
            let reason = "must be at least 2 for a file system, whose first is not for requests";
            return Err(SpecError::new("vhost-user.queues", queues, reason));
        }
        Ok(Self {
            id,
            kind: check_kind(spec.kind, spec.tag)?,
            socket: spec.socket,
            queues: check_queues("vhost-user.queues", queues)?,
            queue_size: check_queue_size("vhost-user.queue-size", spec.queue_size)?,
            slot,
        })
    }
}

fn check_kind(kind: VhostUserType, tag: Option<String>) -> Result<VhostUserKind, SpecError> {
    let error = |tag: String, reason| Err(SpecError::new("vhost-user.tag", tag, reason));
    let plain = match (kind, tag) {
        (VhostUserType::Fs, None) => return error(String::new(), "is missing: fs needs a tag"),
        (VhostUserType::Fs, Some(tag)) => {
            return match (1..=TAG_MAX_BYTES).contains(&tag.len()) && !tag.contains('\0') {
                true => Ok(VhostUserKind::Fs(tag)),
                false => error(tag, "must have 1 to 36 bytes"),
            };
        }
        (_, Some(tag)) => return error(tag, "is for fs only"),
        (plain, None) => plain,
    };
    Ok(match plain {
        VhostUserType::Vsock => VhostUserKind::Vsock,
        VhostUserType::Rng => VhostUserKind::Rng,
        VhostUserType::Blk => VhostUserKind::Blk,
        VhostUserType::Net => VhostUserKind::Net,
        VhostUserType::Other(id) => VhostUserKind::Other(id),
        VhostUserType::Fs => VhostUserKind::Fs(String::new()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_options_are_read_and_printed_back() {
        for text in [
            "type=rng,socket=/s",
            "type=26,socket=/s",
            "type=fs,socket=/s,id=home,tag=home,queues=3,queue-size=1024,slot=24",
        ] {
            assert_eq!(text.parse::<VhostUserSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn device_options_wrong_are_refused_by_name() {
        for (text, named) in [
            ("socket=/s", "type="),
            ("type=rng", "socket="),
            ("type=rng,socket=", "socket needs"),
            ("type=gpu,socket=/s", "\"gpu\""),
            ("type=64,socket=/s", "\"64\""),
            ("type=rng,socket=/s,path=/p", "\"path\""),
        ] {
            let error = text.parse::<VhostUserSpec>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn device_out_of_range_names_the_field() {
        for (text, field) in [
            ("type=fs,socket=/s", "vhost-user.tag"),
            ("type=rng,socket=/s,tag=x", "vhost-user.tag"),
            ("type=fs,socket=/s,tag=x,queues=1", "vhost-user.queues"),
            ("type=net,socket=/s,queues=17", "vhost-user.queues"),
            ("type=net,socket=/s,queue-size=3", "vhost-user.queue-size"),
            ("type=net,socket=/s,id=", "vhost-user.id"),
        ] {
            let error = VhostUser::check(0, text.parse().unwrap(), DeviceSlot::FIRST).unwrap_err();
            assert_eq!(error.field, field, "{text}");
        }
    }

    #[test]
    fn device_without_queues_has_as_many_as_its_type_needs() {
        for (kind, queues) in [("rng", 1), ("net", 2), ("vsock", 3)] {
            let spec = format!("type={kind},socket=/s").parse().unwrap();
            assert_eq!(
                VhostUser::check(0, spec, DeviceSlot::FIRST).unwrap().queues,
                queues
            );
        }
    }
}
