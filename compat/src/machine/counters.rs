// SPDX-License-Identifier: Apache-2.0
//! `vm.counters`: what has gone through the VM's own devices, under the names that the client gave them.

use serde_json::{Map, Value, json};
use spec::api::{DeviceKind, DeviceStats, Stats};

/// The counters of disks and cards. Those of external devices are not known.
pub(super) fn of(document: &Value, stats: &Stats) -> Value {
    let mut counters = Map::new();
    for (list, kind) in [("disks", DeviceKind::Disk), ("net", DeviceKind::Nic)] {
        let listed = document[list].as_array().into_iter().flatten();
        let own = listed.filter(|device| device["vhost_user"] != true);
        let ids = own.filter_map(|device| device["id"].as_str());
        let counted = stats.devices.iter().filter(|device| device.kind == kind);
        counters.extend(
            ids.zip(counted)
                .map(|(id, device)| (id.into(), count(device))),
        );
    }
    counters.into()
}

fn count(device: &DeviceStats) -> Value {
    let total = device.total;
    // Of a card, even queues receive and odd ones send.
    let frames = |first: usize| {
        let queues = device.queues.iter().skip(first).step_by(2);
        queues
            .map(|queue| queue.traffic.requests)
            .fold(0, u64::saturating_add)
    };
    match device.kind {
        DeviceKind::Disk => json!({
            "read_bytes": total.read_bytes,
            "write_bytes": total.written_bytes,
        }),
        DeviceKind::Nic => json!({
            "rx_bytes": total.read_bytes,
            "tx_bytes": total.written_bytes,
            "rx_frames": frames(0),
            "tx_frames": frames(1),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_under_the_clients_names() {
        let traffic = |requests: u32| json!({"requests": requests, "errors": 0, "read_bytes": 1, "written_bytes": 2});
        let queue = |requests| {
            json!({"traffic": traffic(requests), "in_flight": 0, "oldest_age_ns": 0,
            "backpressured": false, "broken": false})
        };
        let device = |id: &str, kind: &str| {
            json!({"id": id, "kind": kind, "restarts": 0,
            "total": traffic(9), "queues": [queue(4), queue(5)]})
        };
        let stats = json!({"name": "v", "time_ns": 1, "state": "running", "reboots": 0,
            "exits": {"pio": 0, "mmio": 0}, "processes": [],
            "devices": [device("disk0", "disk"), device("net_0", "nic")]});
        let stats: Stats = serde_json::from_value(stats).unwrap();
        let document = json!({
            "disks": [{"id": "_ext", "vhost_user": true}, {"id": "_disk1"}],
            "net": [{"id": "net_0"}],
        });
        let counters = of(&document, &stats);
        assert_eq!(
            counters,
            json!({
                "_disk1": {"read_bytes": 1, "write_bytes": 2},
                "net_0": {"rx_bytes": 1, "tx_bytes": 2, "rx_frames": 4, "tx_frames": 5},
            })
        );
    }
}
