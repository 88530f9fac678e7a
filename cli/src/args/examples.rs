// SPDX-License-Identifier: Apache-2.0
//! Examples below the flags of `--help`: of the program, and of the verbs that need more than a
//! line.

pub(super) const ALL: &str = "\
Examples:
  bulkhead run --kernel vmlinuz --initrd initrd.img    boot a kernel, console on this terminal
  bulkhead run --name web --config web.json --detach   start a VM in the background
  bulkhead ps                                          what is running
  bulkhead console web                                 attach to its console (Ctrl-a x detaches)
  bulkhead stop web                                    press its power button

Exit status: 0 the guest powered off, 1 error, 2 usage, 3 the guest panicked or crashed, 128 + N
signal N ended the VM at once.";

pub(super) const RUN: &str = "\
Examples:
  bulkhead run --kernel vmlinux --initrd initrd.img --cpus 2 --mem 1G
  bulkhead run --kernel vmlinuz --cmdline 'console=ttyS0 quiet' --console file=boot.log
  bulkhead run --name web --kernel vmlinuz --initrd initrd.img --detach
  bulkhead run --config vm.json --name second
  bulkhead run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0 root=/dev/vda' \\
      --disk path=root.img --disk path=/dev/vg/data,direct,queues=4
  bulkhead run --kernel vmlinuz --initrd initrd.img --disk path=tools.img,readonly,serial=tools
  bulkhead run --kernel vmlinuz --initrd initrd.img --net tap=tap0,bridge=br0
  bulkhead run --kernel vmlinuz --initrd initrd.img --net user,forward=tcp:2222:22
  bulkhead run --kernel vmlinuz --initrd initrd.img \\
      --vhost-user type=fs,socket=/run/virtiofsd.sock,tag=home

Without --cmdline the kernel is given console=ttyS0 panic=1, and root=/dev/vda rw if there is a disk
and no initrd.

On a terminal: Ctrl-a x ends the VM, Ctrl-a c sends Ctrl-a, Ctrl-a h shows help.
SIGTERM or SIGINT presses the power button; a second one, SIGHUP or SIGQUIT ends the VM at once.
Exit status: 0 the guest powered off, 1 error, 2 usage, 3 the guest panicked or crashed, 128 + N
signal N ended the VM at once.";

pub(super) const CONSOLE: &str = "\
Examples:
  bulkhead console web
  echo reboot | bulkhead console web >boot.log
  bulkhead console web --log | tail

On a terminal: Ctrl-a x detaches, Ctrl-a c sends Ctrl-a, Ctrl-a h shows help.";

pub(super) const REBOOT: &str = "\
Examples:
  bulkhead reboot web                      the guest is asked to power off, and started anew
  bulkhead reboot web --stop-timeout 60    the same; a minute later it is reset
  bulkhead reboot web --force              it is reset at once

Returns when it is asked; `bulkhead wait web --for running` returns when the guest runs again.";

pub(super) const WAIT: &str = "\
Examples:
  bulkhead wait web                               until it has ended and nothing of it is left
  bulkhead wait web --for running                 until its guest runs
  bulkhead wait web --for 'console=login: ?$'     until a line of its console fits

A line that the guest wrote before counts, if it is in what `bulkhead console --log` shows. A VM that
ends before what is waited for is an error.";

pub(super) const STOP: &str = "\
Examples:
  bulkhead stop web                      the guest is asked to power off
  bulkhead stop web --stop-timeout 60    the same; a minute later the plug is pulled
  bulkhead stop web --force              the plug is pulled at once";

pub(super) const RESTART: &str = "\
Examples:
  bulkhead restart web disk0           its backend is replaced
  bulkhead restart web disk0 --wait    the same; returns when the next one serves the disk
  bulkhead restart web vmm --wait      the vmm is replaced, and the guest goes on in the next one

The guest sees a pause and nothing else. A device that stalled because its backends kept dying gets
another one.";

pub(super) const UPGRADE: &str = "\
Examples:
  bulkhead upgrade web --all       all devices and the vmm, to the programs installed beside bulkhead
  bulkhead upgrade web disk0       one of them
  bulkhead upgrade web disk0 --binary /opt/bulkhead-2/blk-backend
  bulkhead upgrade web vmm         the vmm, while the guest stands still for a moment

Returns when the new program serves the device. If it cannot, or dies before it has completed a
request, the old one goes on and the reason is printed.";

pub(super) const STATS: &str = "\
Examples:
  bulkhead stats web
  bulkhead stats web --json | jq '.devices[] | {id, total}'
  bulkhead stats --prometheus >/var/lib/node_exporter/bulkhead.prom    of all VMs

Counters grow for as long as the VM lives, whatever is replaced or rebooted meanwhile. PSS, the memory
of a process less what others share, is shown only to those who may look: root, in most cases.";

pub(super) const TOP: &str = "\
Examples:
  bulkhead top
  bulkhead top web db

q quits, the arrows or k and j choose a VM. MEM is what a process has less what others share (PSS), if
we may know that, and all of it (RSS) if not. SANDBOX is the user it runs as on the host, and whether
it has a seccomp filter (S), cannot gain privileges (N), has no capabilities (C), lives in a pid
namespace (P). DIED counts backends that were replaced. NO_COLOR turns colours off.";

pub(super) const LOGS: &str = "\
Examples:
  bulkhead logs web
  bulkhead logs web --follow --json | jq -r 'select(.level == \"WARN\") | .message'

Times are those of the host's monotonic clock, in seconds. JSON has them in UTC, too.";

pub(super) const EVENTS: &str = "\
Examples:
  bulkhead events web
  bulkhead events web --follow --json | jq -r 'select(.kind == \"backend-died\") | .detail'

Times are in UTC. JSON has them on the host's monotonic clock, as the API does.";
