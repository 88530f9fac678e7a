// SPDX-License-Identifier: Apache-2.0
//! The document of a VM as `vm.info` tells it back: what the client sent, with Cloud Hypervisor's
//! defaults where it said nothing. Clients read it into their own structures, which miss what is left out.

use serde_json::{Map, Value, json};

use crate::fault::Fault;

/// The most devices that a document may name: far more than a VM can have.
const DEVICES_MAX: usize = 64;

/// Reads a request's body.
///
/// # Errors
/// When it is no JSON object.
pub fn read(body: &[u8]) -> Result<Value, Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault {
        status: 400,
        chain: vec!["Failed to deserialize JSON".into(), error.to_string()],
    };
    match serde_json::from_slice(body) {
        Ok(document @ Value::Object(_)) => Ok(document),
        Ok(_) => Err(failed(&"it is no object")),
        Err(error) => Err(failed(&error)),
    }
}

/// Fills in what the client left out.
///
/// # Errors
/// When a part has another type than it must have.
pub fn complete(document: &mut Value) -> Result<(), Fault> {
    modernise(document)?;
    let size = 512 << 20;
    for (section, defaults) in [
        ("payload", json!({})),
        (
            "cpus",
            json!({"boot_vcpus": 1, "kvm_hyperv": false, "nested": true}),
        ),
        (
            "memory",
            json!({"size": size, "mergeable": false, "hotplug_method": "Acpi", "shared": false,
                "hugepages": false, "prefault": false, "thp": true}),
        ),
        ("rng", json!({"src": "/dev/urandom", "iommu": false})),
        ("serial", json!({"mode": "Null"})),
        ("console", json!({"mode": "Tty", "iommu": false})),
    ] {
        fill(object(document, section)?, &defaults);
    }
    let boot = document["cpus"]["boot_vcpus"].clone();
    fill(object(document, "cpus")?, &json!({"max_vcpus": boot}));
    let mut number = 0;
    for (list, prefix, defaults) in [
        ("disks", "_disk", disk()),
        ("net", "_net", net()),
        ("fs", "_fs", json!({"num_queues": 1, "queue_size": 1024})),
    ] {
        for device in devices(document, list)? {
            fill(device, &defaults);
            fill(device, &json!({"id": format!("{prefix}{number}")}));
            number += 1;
        }
    }
    for flag in ["iommu", "watchdog", "pvpanic", "landlock_enable"] {
        fill(whole(document)?, &json!({flag: false}));
    }
    Ok(())
}

/// Adds a network card to a completed document, where nothing stands against it.
///
/// # Errors
/// When another device has its name, or there are too many.
pub fn add_net(document: &mut Value, mut net: Value) -> Result<(), Fault> {
    let lists = ["disks", "net", "fs"];
    let listed = lists.iter().flat_map(|list| document[*list].as_array());
    let taken: Vec<_> = listed
        .flatten()
        .map(|device| device["id"].clone())
        .collect();
    if net["id"].is_null() {
        net["id"] = json!(format!("_net{}", taken.len()));
    }
    if taken.contains(&net["id"]) {
        let id = &net["id"];
        return Err(Fault::new(
            409,
            format!("net.id {id}: another device has this name"),
        ));
    }
    let object = net.as_object_mut();
    fill(
        object.ok_or_else(|| Fault::bad("net must be an object"))?,
        &self::net(),
    );
    let whole = whole(document)?;
    let nets = whole.entry("net").or_insert_with(|| json!([]));
    if nets.is_null() {
        *nets = json!([]);
    }
    match nets.as_array_mut() {
        Some(nets) if nets.len() < DEVICES_MAX => nets.push(net),
        _ => return Err(Fault::bad("net: there are too many")),
    }
    Ok(())
}

fn disk() -> Value {
    json!({"readonly": false, "direct": false, "iommu": false, "num_queues": 1, "queue_size": 128,
        "vhost_user": false, "pci_segment": 0, "sparse": true, "backing_files": false})
}

fn net() -> Value {
    json!({"ip": "192.168.249.1", "mask": "255.255.255.0", "iommu": false, "num_queues": 2,
        "queue_size": 256, "vhost_user": false, "vhost_mode": "Client", "pci_segment": 0,
        "offload_tso": true, "offload_ufo": true, "offload_csum": true})
}

/// Rewrites what versions before 28 had in another place.
fn modernise(document: &mut Value) -> Result<(), Fault> {
    for (section, key, field) in [
        ("kernel", "path", "kernel"),
        ("cmdline", "args", "cmdline"),
        ("initramfs", "path", "initramfs"),
    ] {
        let old = whole(document)?.remove(section);
        if let Some(value) = old.as_ref().and_then(|old| old.get(key)) {
            fill(object(document, "payload")?, &json!({field: value}));
        }
    }
    Ok(())
}

/// Sets what is absent or null.
fn fill(object: &mut Map<String, Value>, defaults: &Value) {
    for (key, value) in defaults.as_object().into_iter().flatten() {
        match object.get(key) {
            None | Some(Value::Null) => object.insert(key.clone(), value.clone()),
            Some(_) => None,
        };
    }
}

fn whole(document: &mut Value) -> Result<&mut Map<String, Value>, Fault> {
    let object = document.as_object_mut();
    object.ok_or_else(|| Fault::bad("The document must be an object"))
}

/// A part of the document, which is made if it is absent.
fn object<'a>(document: &'a mut Value, section: &str) -> Result<&'a mut Map<String, Value>, Fault> {
    let part = whole(document)?.entry(section).or_insert(Value::Null);
    if part.is_null() {
        *part = json!({});
    }
    let object = part.as_object_mut();
    object.ok_or_else(|| Fault::bad(format!("{section} must be an object")))
}

/// The devices of a list, which may be absent.
fn devices<'a>(
    document: &'a mut Value,
    list: &str,
) -> Result<Vec<&'a mut Map<String, Value>>, Fault> {
    let odd = || {
        Fault::bad(format!(
            "{list} must be a list of at most {DEVICES_MAX} objects"
        ))
    };
    match document.get_mut(list) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(devices)) if devices.len() <= DEVICES_MAX => {
            let objects = devices.iter_mut().map(Value::as_object_mut);
            objects.collect::<Option<_>>().ok_or_else(odd)
        }
        Some(_) => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(mut document: Value) -> Value {
        complete(&mut document).unwrap();
        document
    }

    #[test]
    fn document_told_back_has_what_clients_structures_need() {
        let told = completed(json!({
            "payload": {"kernel": "/k"}, "cpus": {"boot_vcpus": 2},
            "disks": [{"path": "/a"}, {"path": "/b", "id": "data", "queue_size": 64}],
            "net": [{"tap": "t"}], "later": {"kept": true},
        }));
        assert_eq!(told["cpus"]["max_vcpus"], 2);
        assert_eq!(told["memory"]["size"], 512 << 20);
        assert_eq!(told["serial"]["mode"], "Null");
        assert_eq!(told["console"]["mode"], "Tty");
        assert_eq!(told["rng"]["src"], "/dev/urandom");
        let disks = &told["disks"];
        assert_eq!(
            (&disks[0]["id"], &disks[0]["queue_size"]),
            (&json!("_disk0"), &json!(128))
        );
        assert_eq!(
            (&disks[1]["id"], &disks[1]["queue_size"]),
            (&json!("data"), &json!(64))
        );
        let net = &told["net"][0];
        assert_eq!(
            (&net["id"], &net["mask"]),
            (&json!("_net2"), &json!("255.255.255.0"))
        );
        assert_eq!(told["later"]["kept"], true);
    }

    #[test]
    fn document_of_before_version_28_becomes_one_with_a_payload() {
        let told = completed(json!({
            "kernel": {"path": "/k"}, "cmdline": {"args": "quiet"}, "initramfs": {"path": "/i"},
        }));
        let payload = json!({"kernel": "/k", "cmdline": "quiet", "initramfs": "/i"});
        assert_eq!(told["payload"], payload);
        assert!(told.get("kernel").is_none());
    }

    #[test]
    fn part_of_another_type_is_refused_by_name() {
        for (document, word) in [
            (json!([]), "The document"),
            (json!({"cpus": 1}), "cpus must"),
            (json!({"disks": {}}), "disks must"),
            (json!({"net": [1]}), "net must"),
            (json!({"fs": vec![json!({}); DEVICES_MAX + 1]}), "fs must"),
        ] {
            let fault = complete(&mut document.clone()).unwrap_err();
            assert!(fault.chain[0].starts_with(word), "{fault:?}");
        }
    }

    #[test]
    fn card_is_added_once() {
        let mut document = completed(json!({"payload": {"kernel": "/k"}}));
        add_net(&mut document, json!({"id": "net_0"})).unwrap();
        add_net(&mut document, json!({})).unwrap();
        assert_eq!(document["net"][0]["queue_size"], 256);
        assert_eq!(document["net"][1]["id"], "_net1");
        let again = add_net(&mut document, json!({"id": "net_0"})).unwrap_err();
        assert_eq!(again.status, 409);
    }
}
