// SPDX-License-Identifier: Apache-2.0
//! Network cards: read, printed, refused.

use super::*;

fn check(text: &str) -> Result<Net, crate::SpecError> {
    Net::check(0, &text.parse().unwrap(), ipc::slot::DeviceSlot::FIRST)
}

#[test]
fn card_options_are_read_and_printed_back() {
    for text in [
        "tap=tap0",
        "user",
        "id=a,fd=5",
        "any-mac,queue-size=512,fd=5,fd=7,ipv4=10.0.0.1",
        "user,id=a,mac=02:00:00:00:00:01,forward=tcp:8080:80,forward=udp:53:53",
        "any-mac,any-service,tap=t,id=a,mac=02:00:00:00:00:01,mtu=9000,queues=4,queue-size=1024,\
         bridge=br0,up=/up,down=/down,ipv4=10.0.0.1,ipv4=10.0.0.2,ipv6=fe80::1",
    ] {
        let spec: NetSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<NetSpec>(&json).unwrap(), spec);
        assert!(check(text).is_ok(), "{text}");
    }
}

#[test]
fn card_options_wrong_are_refused_by_name() {
    for (text, named) in [
        ("", "option"),
        ("tap", "tap needs"),
        ("user=yes", "user takes"),
        ("tap=a,tap=b", "tap is given twice"),
        ("tap=a,mtu=x", "mtu \"x\""),
        ("tap=a,queue=1", "\"queue\""),
        ("tap=a,any-mac=on", "any-mac takes"),
        ("user,forward", "forward needs"),
    ] {
        let error = text.parse::<NetSpec>().unwrap_err();
        assert!(error.contains(named), "{text}: {error}");
    }
}

#[test]
fn card_that_cannot_be_names_field_and_value() {
    for (text, field, value) in [
        ("id=a", "net", "a"),
        ("user,tap=a", "net.tap", "a"),
        ("fd=5,tap=a", "net.tap", "a"),
        ("fd=5,user", "net.fd", "5"),
        ("fd=2", "net.fd", "2"),
        ("fd=-1", "net.fd", "-1"),
        ("fd=5,fd=6,queues=3", "net.queues", "3"),
        ("fd=5,mtu=9000", "net.mtu", "9000"),
        ("fd=5,bridge=br0", "net.bridge", "br0"),
        ("fd=5,up=/up", "net.up", "/up"),
        ("fd=5,down=/down", "net.down", "/down"),
        ("fd=5,forward=tcp:1:2", "net.forward", "tcp:1:2"),
        (
            "fd=3,fd=4,fd=5,fd=6,fd=7,fd=8,fd=9,fd=10,fd=11",
            "net.fd",
            "9 descriptors",
        ),
        ("tap=", "net.tap", ""),
        ("tap=a/b", "net.tap", "a/b"),
        ("tap=..", "net.tap", ".."),
        ("tap=tap%d", "net.tap", "tap%d"),
        ("tap=sixteen-letters-", "net.tap", "sixteen-letters-"),
        ("tap=a,id=a/b", "net.id", "a/b"),
        ("tap=a,mac=1:2", "net.mac", "1:2"),
        ("user,mac=01:00:00:00:00:00", "net.mac", "01:00:00:00:00:00"),
        ("tap=a,mtu=67", "net.mtu", "67"),
        ("tap=a,mtu=65522", "net.mtu", "65522"),
        ("tap=a,queues=0", "net.queues", "0"),
        ("tap=a,queues=9", "net.queues", "9"),
        ("tap=a,queue-size=32", "net.queue-size", "32"),
        ("tap=a,bridge=a b", "net.bridge", "a b"),
        ("tap=a,up=", "net.up", ""),
        ("tap=a,down=", "net.down", ""),
        ("tap=a,ipv4=10.0.0", "net.ipv4", "10.0.0"),
        ("tap=a,ipv6=10.0.0.1", "net.ipv6", "10.0.0.1"),
        ("tap=a,forward=tcp:1:1", "net.forward", "tcp:1:1"),
        ("user,forward=80", "net.forward", "80"),
        ("user,forward=tcp:80", "net.forward", "tcp:80"),
        ("user,forward=tcp:0:80", "net.forward", "tcp:0:80"),
        ("user,forward=tcp:+1:80", "net.forward", "tcp:+1:80"),
        ("user,forward=tcp:80:65536", "net.forward", "tcp:80:65536"),
        ("user,forward=sctp:80:80", "net.forward", "sctp:80:80"),
        ("user,mtu=9000", "net.mtu", "9000"),
        ("user,queues=2", "net.queues", "2"),
        ("user,bridge=br0", "net.bridge", "br0"),
        ("user,up=/up", "net.up", "/up"),
        ("user,any-mac", "net.any-mac", "true"),
        ("user,ipv4=10.0.0.1", "net.ipv4", "10.0.0.1"),
    ] {
        let error = check(text).unwrap_err();
        assert_eq!(
            (error.field, error.value.as_str()),
            (field, value),
            "{text}"
        );
    }
}

#[test]
fn cards_that_exclude_each_other_are_refused() {
    for (a, b, field) in [
        ("tap=a", "tap=a,id=b", "net.tap"),
        (
            "tap=a,mac=02:00:00:00:00:01",
            "user,mac=02:00:00:00:00:01",
            "net.mac",
        ),
        (
            "user,forward=tcp:80:1",
            "user,forward=tcp:80:2",
            "net.forward",
        ),
    ] {
        let nets = [check(a).unwrap(), check(b).unwrap()];
        assert_eq!(Net::check_all(&nets).unwrap_err().field, field, "{a} {b}");
    }
    let nets = [check("user,forward=tcp:80:1,forward=udp:80:1").unwrap()];
    assert!(Net::check_all(&nets).is_ok());
}

#[test]
fn card_without_a_mac_address_gets_one_by_its_name() {
    let net = check("user").unwrap();
    assert_eq!(net.mac("web"), crate::mac::derived("web", "net0"));
    let given = check("tap=a,mac=02:00:00:00:00:01").unwrap();
    assert_eq!(given.mac("web").to_string(), "02:00:00:00:00:01");
}
