// SPDX-License-Identifier: Apache-2.0
//! Numbers in each of their forms.

use super::*;

/// A VM with a disk and a NIC that have done something.
pub(crate) fn report() -> Report {
    let text = r#"{
        "name": "web", "time_ns": 5000000000, "state": "running", "reboots": 2,
        "exits": {"pio": 7, "mmio": 8},
        "processes": [
            {"role": "jailer", "pid": 10, "spawned_ns": 1000000000, "first_run_ns": 0,
             "pio_exits": 0, "mmio_exits": 0},
            {"role": "blk disk\"0", "restarts": 1, "pid": 12, "spawned_ns": 2500000000,
             "first_run_ns": 0, "pio_exits": 0, "mmio_exits": 0}
        ],
        "devices": [
            {"id": "disk0", "kind": "disk", "restarts": 1,
             "total": {"requests": 30, "errors": 1, "read_bytes": 4096, "written_bytes": 8192},
             "queues": [
                {"traffic": {"requests": 30, "errors": 1, "read_bytes": 4096, "written_bytes": 8192},
                 "in_flight": 3, "oldest_age_ns": 9, "backpressured": true,
                 "broken": false}]},
            {"id": "net0", "kind": "nic", "restarts": 0,
             "dropped": {"dhcp": 0, "router": 17, "source-mac": 3},
             "total": {"requests": 9, "errors": 0, "read_bytes": 400, "written_bytes": 500},
             "queues": [
                {"traffic": {"requests": 4, "errors": 0, "read_bytes": 400, "written_bytes": 0},
                 "in_flight": 0, "oldest_age_ns": 0, "backpressured": false,
                 "broken": false},
                {"traffic": {"requests": 5, "errors": 0, "read_bytes": 0, "written_bytes": 500},
                 "in_flight": 0, "oldest_age_ns": 0, "backpressured": false,
                 "broken": false}]}
        ]
    }"#;
    Report::new(
        serde_json::from_str(text).unwrap(),
        |process| match process.pid {
            10 => Usage {
                cpu_ns: Some(1_020_000_000),
                rss_bytes: Some(3 << 20),
                pss_bytes: Some(1536 << 10),
                sandbox: None,
            },
            _ => Usage::default(),
        },
    )
}

#[test]
fn table_has_processes_and_devices_and_a_dash_for_what_is_hidden() {
    let text = describe(&report());
    for line in [
        "name        web\n",
        "mmio exits  8\n",
        "jailer      10   1.02s  3.0M  1.5M  0\n",
        "blk disk\"0  12   -      -     -     1\n",
        "disk0   30        1       4.0K  8.0K     3         1         backpressured\n",
        "net0    4/5       0       400B  500B     0         0\n",
        "\nDEVICE  DROPPED     COUNT\nnet0    router      17\nnet0    source-mac  3\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("dhcp"), "{text}");
}

#[test]
fn table_of_a_vm_that_dropped_nothing_does_not_speak_of_it() {
    let mut report = report();
    report.devices[1].dropped.clear();
    let text = describe(&report);
    assert!(!text.contains("DROPPED"), "{text}");
}

#[test]
fn json_has_what_the_vm_and_what_the_host_says() {
    let value: serde_json::Value = serde_json::from_str(&json(&report()).unwrap()).unwrap();
    assert_eq!(value["processes"][0]["cpu_ns"], 1_020_000_000);
    assert_eq!(value["processes"][0]["role"], "jailer");
    assert_eq!(value["processes"][1]["rss_bytes"], serde_json::Value::Null);
    assert_eq!(value["devices"][0]["queues"][0]["backpressured"], true);
    assert_eq!(value["devices"][1]["dropped"]["source-mac"], 3);
}

#[test]
fn prometheus_has_base_units_labels_and_each_family_once() {
    let text = prometheus::encode(&[report(), report()]);
    for line in [
        "# TYPE bulkhead_vm_reboots_total counter\nbulkhead_vm_reboots_total{vm=\"web\"} 2\n",
        "bulkhead_vm_state{vm=\"web\",state=\"running\"} 1\n",
        "bulkhead_vm_state{vm=\"web\",state=\"paused\"} 0\n",
        "bulkhead_vm_vcpu_exits_total{vm=\"web\",kind=\"mmio\"} 8\n",
        "bulkhead_vm_process_cpu_seconds_total{vm=\"web\",process=\"jailer\"} 1.020000000\n",
        "bulkhead_vm_process_start_time_monotonic_seconds{vm=\"web\",\
         process=\"blk disk\\\"0\"} 2.500000000\n",
        "bulkhead_vm_disk_written_bytes_total{vm=\"web\",device=\"disk0\"} 8192\n",
        "bulkhead_vm_device_in_flight_requests{vm=\"web\",device=\"disk0\"} 3\n",
        "bulkhead_vm_device_backpressured{vm=\"web\",device=\"net0\"} 0\n",
        "bulkhead_vm_nic_sent_packets_total{vm=\"web\",device=\"net0\"} 5\n",
        "bulkhead_vm_nic_received_bytes_total{vm=\"web\",device=\"net0\"} 400\n",
        "bulkhead_vm_nic_dropped_packets_total{vm=\"web\",device=\"net0\",reason=\"dhcp\"} 0\n",
        "bulkhead_vm_nic_dropped_packets_total{vm=\"web\",device=\"net0\",reason=\"source-mac\"} 3\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let mut families: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE "))
        .collect();
    let all = families.len();
    families.dedup();
    assert_eq!(families.len(), all);
    for line in families {
        let [name, kind] = [2, 3].map(|at| line.split(' ').nth(at).unwrap());
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
    }
    // What is hidden from us is left out, and not 0.
    assert!(!text.contains("resident_memory_bytes{vm=\"web\",process=\"blk"));
}
