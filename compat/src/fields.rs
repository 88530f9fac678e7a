// SPDX-License-Identifier: Apache-2.0
//! What becomes of each field of `vm.create` (`VmConfig` of Cloud Hypervisor's API): used, ignored or
//! refused. A field that is not in the table is ignored, and told back like the others.

use serde_json::Value;

use crate::fault::Fault;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The VM is as it says.
    Used,
    /// It makes no difference: why.
    Ignored(&'static str),
    /// It is refused unless it asks for nothing (null, false, 0, empty, `Off`): why.
    Refused(&'static str),
}

use Rule::{Ignored, Refused, Used};

const NO_IOMMU: Rule = Refused("guests have no IOMMU");
const ONE_BUS: Rule = Ignored("all devices are on one PCI bus");
const SLOT: Rule = Ignored("devices take the first free slot in order");
const NO_RATE: Rule = Refused("rates are limited by control groups, `limits` of a VM of Bulkhead");
const NO_HOTPLUG: Rule = Ignored("there is no hot-plug");
const NO_VFIO: Rule = Refused("devices of the host are not passed on");
const CONFIDENTIAL: Rule = Refused("there are no confidential guests");
const NO_SMBIOS: Rule = Ignored("the guest has no SMBIOS tables");
const NEGOTIATED: Rule = Ignored("the guest's driver chooses among the tap's offloads");

/// All fields that Cloud Hypervisor knows. `[]` is each element of a list; a rule for an object holds
/// for all of it.
pub const FIELDS: &[(&str, Rule)] = &[
    ("payload.kernel", Used),
    ("payload.cmdline", Used),
    ("payload.initramfs", Used),
    (
        "payload.firmware",
        Refused("there is no firmware: name a kernel"),
    ),
    ("payload.igvm", CONFIDENTIAL),
    ("payload.host_data", CONFIDENTIAL),
    ("cpus.boot_vcpus", Used),
    ("cpus.max_vcpus", NO_HOTPLUG),
    ("cpus.topology", Ignored("each vCPU is a core")),
    ("cpus.kvm_hyperv", Refused("guests see KVM, not Hyper-V")),
    ("cpus.max_phys_bits", Ignored("they are the host's")),
    ("cpus.nested", Ignored("guests run no guests")),
    (
        "cpus.affinity",
        Refused("place processes with `affinity` of a VM of Bulkhead"),
    ),
    ("cpus.features", Ignored("the processor is the host's")),
    (
        "cpus.core_scheduling",
        Ignored("the host's scheduler decides"),
    ),
    ("memory.size", Used),
    ("memory.hugepages", Used),
    ("memory.hugepage_size", Used),
    ("memory.prefault", Used),
    (
        "memory.shared",
        Ignored("guest memory is always shared with the backends"),
    ),
    ("memory.mergeable", Ignored("shared memory is never merged")),
    (
        "memory.thp",
        Ignored("the host's setting for shared memory holds"),
    ),
    ("memory.hotplug_size", NO_HOTPLUG),
    ("memory.hotplug_method", NO_HOTPLUG),
    ("memory.hotplugged_size", NO_HOTPLUG),
    ("memory.zones", Refused("guest memory is one zone")),
    ("disks[].path", Used),
    ("disks[].id", Used),
    ("disks[].readonly", Used),
    ("disks[].direct", Used),
    ("disks[].num_queues", Used),
    ("disks[].queue_size", Used),
    ("disks[].serial", Used),
    ("disks[].image_type", Used),
    ("disks[].vhost_user", Used),
    ("disks[].vhost_socket", Used),
    ("disks[].iommu", NO_IOMMU),
    ("disks[].rate_limiter_config", NO_RATE),
    ("disks[].rate_limit_group", NO_RATE),
    (
        "disks[].queue_affinity",
        Refused("the host's scheduler places the backend's threads"),
    ),
    ("disks[].backing_files", Refused("images are raw")),
    (
        "disks[].sparse",
        Ignored("discarded blocks are given back if the file system can"),
    ),
    (
        "disks[].lock_granularity",
        Ignored("an image has one user in any case"),
    ),
    ("disks[].pci_segment", ONE_BUS),
    ("disks[].pci_device_id", SLOT),
    ("net[].tap", Used),
    ("net[].fds", Ignored("descriptors come beside vm.add-net")),
    ("net[].id", Used),
    ("net[].mac", Used),
    ("net[].mtu", Used),
    ("net[].num_queues", Used),
    ("net[].queue_size", Used),
    ("net[].vhost_user", Used),
    ("net[].vhost_socket", Used),
    ("net[].vhost_mode", Used),
    (
        "net[].ip",
        Ignored("taps get no address: the program that makes them sets it"),
    ),
    ("net[].mask", Ignored("as ip")),
    (
        "net[].host_mac",
        Refused("taps keep the address that they have on the host"),
    ),
    ("net[].iommu", NO_IOMMU),
    ("net[].rate_limiter_config", NO_RATE),
    ("net[].offload_tso", NEGOTIATED),
    ("net[].offload_ufo", NEGOTIATED),
    ("net[].offload_csum", NEGOTIATED),
    ("net[].pci_segment", ONE_BUS),
    ("net[].pci_device_id", SLOT),
    ("fs[].tag", Used),
    ("fs[].socket", Used),
    ("fs[].num_queues", Used),
    ("fs[].queue_size", Used),
    ("fs[].id", Used),
    ("fs[].pci_segment", ONE_BUS),
    ("fs[].pci_device_id", SLOT),
    ("serial.mode", Used),
    ("serial.file", Used),
    ("serial.socket", Used),
    ("console.mode", Used),
    ("console.file", Ignored("there is no virtio-console")),
    ("console.socket", Ignored("there is no virtio-console")),
    ("console.iommu", NO_IOMMU),
    ("debug_console.mode", Refused("there is no debug console")),
    (
        "rng",
        Ignored("guests take entropy from their processor: there is no virtio-rng"),
    ),
    ("balloon.size", Refused("there is no balloon")),
    ("balloon.deflate_on_oom", Ignored("there is no balloon")),
    (
        "balloon.free_page_reporting",
        Ignored("there is no balloon"),
    ),
    ("vsock", Refused("there is no vsock device of this kind")),
    (
        "generic-vhost-user",
        Refused("external devices are `vhost_user` of a VM of Bulkhead"),
    ),
    ("pmem", Refused("there are no pmem devices: use a disk")),
    ("devices", NO_VFIO),
    ("user_devices", NO_VFIO),
    ("vdpa", NO_VFIO),
    ("rate_limit_groups", NO_RATE),
    ("numa", Refused("guests have one node")),
    ("sgx_epc", CONFIDENTIAL),
    ("tpm", Refused("there is no TPM")),
    ("iommu", NO_IOMMU),
    ("watchdog", Refused("there is no watchdog")),
    ("pvpanic", Ignored("every machine has the device")),
    ("pci_segments", ONE_BUS),
    ("platform.num_pci_segments", ONE_BUS),
    ("platform.iommu_segments", NO_IOMMU),
    ("platform.iommu_address_width", NO_IOMMU),
    (
        "platform.iommu_address_width_bits",
        Ignored("guests have no IOMMU"),
    ),
    ("platform.serial_number", NO_SMBIOS),
    ("platform.uuid", NO_SMBIOS),
    ("platform.oem_strings", NO_SMBIOS),
    ("platform.tdx", CONFIDENTIAL),
    ("platform.sev_snp", CONFIDENTIAL),
    (
        "platform.iommufd",
        Ignored("devices of the host are not passed on"),
    ),
    (
        "platform.vfio_p2p_dma",
        Ignored("devices of the host are not passed on"),
    ),
    (
        "landlock_enable",
        Ignored("the VM's processes are always confined"),
    ),
    (
        "landlock_rules",
        Ignored("the VM's processes may open nothing"),
    ),
];

/// Refuses a document that asks for what there is not.
///
/// # Errors
/// The first such field, and why.
pub fn check(document: &Value) -> Result<(), Fault> {
    for (field, rule) in FIELDS {
        if let Refused(why) = rule
            && let Some(place) = asking(document, field)
        {
            return Err(Fault::bad(format!("{place} is not supported: {why}")));
        }
    }
    Ok(())
}

/// Where the field asks for something.
fn asking(value: &Value, field: &str) -> Option<String> {
    let (part, rest) = match field.split_once('.') {
        Some((part, rest)) => (part, Some(rest)),
        None => (field, None),
    };
    let name = part.trim_end_matches("[]");
    let found = value.get(name)?;
    let below = |value: &Value, place: String| match rest {
        None => (!asks_for_nothing(value)).then_some(place),
        Some(rest) => asking(value, rest).map(|below| format!("{place}.{below}")),
    };
    if name == part {
        return below(found, name.to_owned());
    }
    let elements = found.as_array()?.iter().enumerate();
    let mut elements = elements.map(|(at, element)| below(element, format!("{name}[{at}]")));
    elements.find_map(|found| found)
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => ["", "Off", "Null"].contains(&text.as_str()),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_that_asks_for_nothing_is_accepted() {
        let document = json!({
            "disks": [{"iommu": false, "rate_limiter_config": null}],
            "devices": [], "balloon": {"size": 0, "free_page_reporting": true},
            "debug_console": {"mode": "Off"}, "iommu": false, "of_a_later_version": {"x": 1},
        });
        assert_eq!(check(&document), Ok(()));
    }

    #[test]
    fn field_that_is_refused_is_named_with_its_place() {
        for (document, place) in [
            (json!({"disks": [{}, {"iommu": true}]}), "disks[1].iommu"),
            (json!({"devices": [{"path": "/sys/x"}]}), "devices"),
            (json!({"platform": {"sev_snp": true}}), "platform.sev_snp"),
            (json!({"payload": {"firmware": "/f"}}), "payload.firmware"),
            (
                json!({"debug_console": {"mode": "Tty"}}),
                "debug_console.mode",
            ),
            (json!({"balloon": {"size": 1}}), "balloon.size"),
        ] {
            let fault = check(&document).unwrap_err();
            assert!(
                fault.chain[0].starts_with(&format!("{place} is not")),
                "{fault:?}"
            );
        }
    }

    #[test]
    fn document_of_any_shape_is_walked() {
        for document in [json!(1), json!([]), json!({"disks": 1, "platform": []})] {
            assert_eq!(check(&document), Ok(()));
        }
    }
}
