// SPDX-License-Identifier: Apache-2.0
//! What of Cloud Hypervisor's REST API (`/api/v1`, version 54) there is here, and what is refused.

use crate::fault::Fault;
use crate::http::Request;

/// Where the API is.
const ROOT: &str = "/api/v1/";

/// What a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Who serves this.
    Ping,
    /// End everything, the process included.
    Exit,
    /// Take a VM's document.
    Create,
    /// Forget it.
    Delete,
    /// Start the VM.
    Boot,
    /// What it is and does.
    Info,
    /// What went through its devices.
    Counters,
    /// Stop its vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Press its power button.
    PowerButton,
    /// End the VM, and keep its document.
    Shutdown,
    /// Start it anew.
    Reboot,
    /// Add a network card to the document.
    AddNet,
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Its method.
    pub method: &'static str,
    /// Its name below the root.
    pub name: &'static str,
    /// What it does, or why it is refused.
    pub serves: Result<Action, &'static str>,
}

/// Why what changes the hardware of a running VM is refused.
const NO_HOTPLUG: &str = "devices cannot be added or removed: name them in vm.create";
/// Why what changes its size is refused.
const NO_RESIZE: &str = "a VM keeps the size that vm.create gives it";
/// Why what would save and restore it is refused.
const NO_SNAPSHOT: &str = "there are no snapshots and no migration";

/// All of them.
pub const ENDPOINTS: &[Endpoint] = &[
    get("vmm.ping", Ok(Action::Ping)),
    put("vmm.shutdown", Ok(Action::Exit)),
    put("vm.create", Ok(Action::Create)),
    put("vm.delete", Ok(Action::Delete)),
    put("vm.boot", Ok(Action::Boot)),
    get("vm.info", Ok(Action::Info)),
    get("vm.counters", Ok(Action::Counters)),
    put("vm.pause", Ok(Action::Pause)),
    put("vm.resume", Ok(Action::Resume)),
    put("vm.power-button", Ok(Action::PowerButton)),
    put("vm.shutdown", Ok(Action::Shutdown)),
    put("vm.reboot", Ok(Action::Reboot)),
    put("vm.add-net", Ok(Action::AddNet)),
    put("vm.add-disk", Err(NO_HOTPLUG)),
    put("vm.add-fs", Err(NO_HOTPLUG)),
    put("vm.add-generic-vhost-user", Err(NO_HOTPLUG)),
    put("vm.add-device", Err(NO_HOTPLUG)),
    put("vm.add-user-device", Err(NO_HOTPLUG)),
    put("vm.add-pmem", Err(NO_HOTPLUG)),
    put("vm.add-vdpa", Err(NO_HOTPLUG)),
    put("vm.add-vsock", Err(NO_HOTPLUG)),
    put("vm.remove-device", Err(NO_HOTPLUG)),
    put("vm.resize", Err(NO_RESIZE)),
    put("vm.resize-disk", Err(NO_RESIZE)),
    put("vm.resize-zone", Err(NO_RESIZE)),
    put("vm.snapshot", Err(NO_SNAPSHOT)),
    put("vm.restore", Err(NO_SNAPSHOT)),
    put("vm.send-migration", Err(NO_SNAPSHOT)),
    put("vm.receive-migration", Err(NO_SNAPSHOT)),
    put("vm.coredump", Err("guest memory is written nowhere")),
    put("vm.nmi", Err("a guest takes no NMI")),
];

const fn get(name: &'static str, serves: Result<Action, &'static str>) -> Endpoint {
    Endpoint {
        method: "GET",
        name,
        serves,
    }
}

const fn put(name: &'static str, serves: Result<Action, &'static str>) -> Endpoint {
    Endpoint {
        method: "PUT",
        name,
        serves,
    }
}

/// What a request asks for.
///
/// # Errors
/// An endpoint that does not exist, is refused, or has another method.
pub fn find(request: &Request) -> Result<Action, Fault> {
    let name = request.path.strip_prefix(ROOT);
    let mut all = ENDPOINTS.iter();
    let found = name.and_then(|name| all.find(|endpoint| endpoint.name == name));
    let Some(endpoint) = found else {
        return Err(Fault::new(404, "Not Found: there is no such endpoint"));
    };
    let (name, method) = (endpoint.name, endpoint.method);
    if request.method != method {
        return Err(Fault::bad(format!("{name}: the method must be {method}")));
    }
    endpoint
        .serves
        .map_err(|why| Fault::bad(format!("{name} is not supported: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, path: &str) -> Result<Action, Fault> {
        find(&Request {
            method: method.into(),
            path: path.into(),
            body: Vec::new(),
            keep_alive: true,
            len: 0,
        })
    }

    #[test]
    fn endpoint_is_found_by_method_and_name() {
        assert_eq!(ask("GET", "/api/v1/vm.info"), Ok(Action::Info));
        for (method, path, status, word) in [
            ("PUT", "/api/v1/vm.info", 400, "GET"),
            ("PUT", "/api/v1/vm.resize", 400, "vm.resize"),
            ("GET", "/", 404, "Not Found"),
            ("GET", "/api/v2/vm.info", 404, "Not Found"),
            ("GET", "/api/v1/vm.info/", 404, "Not Found"),
        ] {
            let fault = ask(method, path).unwrap_err();
            assert_eq!(fault.status, status, "{path}");
            assert!(fault.chain[0].contains(word), "{fault:?}");
        }
    }

    #[test]
    fn endpoints_have_names_of_their_own() {
        let mut names: Vec<_> = ENDPOINTS.iter().map(|endpoint| endpoint.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ENDPOINTS.len());
    }
}
