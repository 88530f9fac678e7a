# What is done with the packages in a fresh root, under its systemd; each step says itself if it does not hold.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive

fail() { set +x; echo "packages: $*" >&2; exit 1; }
# All files that a package or a VM could leave; what dpkg, ldconfig and systemd keep of their own is not
# among them.
files() {
    find /etc /opt /root /run /srv /usr /var /bin /sbin /lib -xdev \
        ! -path '/var/lib/dpkg/*' ! -path '/var/log/*' ! -path '/var/cache/*' ! -path '/run/systemd*' | sort
}
program() { stat -L -c %d:%i "$1"; }
pid() { bulkhead inspect tiny --json | tr -d ' \n' | grep -o "\"role\":\"$1\",[^}]*\"pid\":[0-9]*" | grep -o '[0-9]*$'; }

# The agent as Pacemaker calls it.
agent() {
    OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=tiny OCF_RESKEY_config=/etc/bulkhead/tiny.json \
        OCF_RESKEY_autoset_utilization=false OCF_RESKEY_CRM_meta_timeout=8000 \
        /usr/lib/ocf/resource.d/bulkhead/vm "$1"
}

# As the boot of a machine does.
systemd-tmpfiles --create
files >/case/before
dpkg -i /case/first.deb /case/agent.deb >/case/log 2>&1 || { cat /case/log >&2; fail "not installed"; }
bulkhead --version
man=/usr/share/man/man1/bulkhead.1.gz
test -s $man || fail "no $man"
unit=$(dpkg -L bulkhead | grep 'bulkhead@.service$') || fail "no unit"
systemd-analyze verify --man=no "$unit" 2>/case/verify || { cat /case/verify >&2; fail "systemd does not take the unit"; }
profile=/etc/apparmor.d/usr.lib.bulkhead.jailer
apparmor_parser -Q -K $profile 2>/case/profile || { cat /case/profile >&2; fail "AppArmor does not take the profile"; }
systemd-tmpfiles --create bulkhead.conf
test "$(stat -c %a /run/bulkhead)" = 700 || fail "/run/bulkhead is open to others"
for example in /usr/share/doc/bulkhead/examples/*.json; do
    bulkhead check "$example" || fail "$example is not valid"
done
bulkhead doctor --state-dir /run/bulkhead >/case/doctor 2>&1 || { cat /case/doctor >&2; fail "doctor"; }

# As a service, which is started when the jailer says that the VM runs.
cat >/etc/bulkhead/tiny.json <<DOCUMENT
{"name": "tiny", "kernel": "/case/kernel", "mem": "16M", "console": "file=/case/console", "disks": [{"path": "/case/disk"}]}
DOCUMENT
systemctl daemon-reload
logs() { journalctl --no-pager -o cat -u bulkhead@tiny >&2; }
systemctl start bulkhead@tiny || { logs; fail "systemd does not start the VM"; }
jailer=$(systemctl show -P MainPID bulkhead@tiny)
bulkhead wait tiny --for running || { logs; fail "the VM does not run"; }
for n in $(seq 100); do grep -q hello /case/console && break; sleep 0.1; done
grep -q hello /case/console || fail "the guest says nothing"

dpkg -i /case/next.deb /case/next-agent.deb >/case/log 2>&1 || { cat /case/log >&2; fail "not updated"; }
old=$(pid 'blkdisk0')
test "$(program /proc/$old/exe)" != "$(program /usr/lib/bulkhead/blk-backend)" || fail "the backend is new already"
bulkhead upgrade tiny --all || { logs; fail "not upgraded"; }
new=$(pid 'blkdisk0')
test "$new" != "$old" || fail "the backend is the same process"
test "$(program /proc/$new/exe)" = "$(program /usr/lib/bulkhead/blk-backend)" || fail "the backend is not the installed one"
test "$(systemctl show -P MainPID bulkhead@tiny)" = "$jailer" || fail "the VM has ended"

bulkhead stop tiny --force
for n in $(seq 100); do systemctl is-active -q bulkhead@tiny || break; sleep 0.1; done
! systemctl is-failed -q bulkhead@tiny || { logs; fail "systemd takes the end of the VM for a failure"; }
left=$(ps -e -o comm= | grep -xE 'jailer|supervisor|vmm|blk-backend' || true)
test -z "$left" || fail "left: $left"

# Under Pacemaker's agent, with what this release has for agents.
agent meta-data | grep -q '<resource-agent name="vm"' || fail "the agent has no meta-data"
agent validate-all || fail "the agent does not take the document"
agent start || fail "the agent does not start the VM"
agent monitor || fail "the agent does not see the VM"
bulkhead inspect tiny >/dev/null || fail "the VM does not run under the agent"
agent stop || fail "the agent does not stop the VM"
! bulkhead inspect tiny >/dev/null 2>&1 || fail "the VM runs after the agent's stop"
left=$(ps -e -o comm= | grep -xE 'jailer|supervisor|vmm|blk-backend' || true)
test -z "$left" || fail "left: $left"

rm /etc/bulkhead/tiny.json
dpkg --purge bulkhead-pacemaker bulkhead >/case/log 2>&1 || { cat /case/log >&2; fail "not removed"; }
files >/case/after
diff /case/before /case/after || fail "left behind"
