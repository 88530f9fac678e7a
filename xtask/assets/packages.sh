# What is done with the packages in a fresh root; each step says itself if it does not hold.
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

files >/case/before
dpkg -i /case/first.deb >/case/log 2>&1 || { cat /case/log >&2; fail "not installed"; }
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

# The unit's own command, with the capabilities that the unit leaves it.
cat >/etc/bulkhead/tiny.json <<DOCUMENT
{"name": "tiny", "kernel": "/case/kernel", "mem": "16M", "console": "file=/case/console", "disks": [{"path": "/case/disk"}]}
DOCUMENT
start=$(sed -n 's/^ExecStart=//p' "$unit" | sed 's/%i/tiny/g')
bounds=$(sed -n 's/^CapabilityBoundingSet=//p' "$unit" | tr A-Z a-z | sed 's/cap_/+/g; s/ /,/g')
setpriv --no-new-privs --bounding-set "-all,$bounds" --inh-caps -all -- $start 2>/case/jailer.log &
jailer=$!
for n in $(seq 100); do bulkhead ps | grep -q tiny && break; sleep 0.1; done
bulkhead wait tiny --for running || { cat /case/jailer.log >&2; fail "the VM does not run"; }
for n in $(seq 100); do grep -q hello /case/console && break; sleep 0.1; done
grep -q hello /case/console || fail "the guest says nothing"

dpkg -i /case/next.deb >/case/log 2>&1 || { cat /case/log >&2; fail "not updated"; }
old=$(pid 'blkdisk0')
test "$(program /proc/$old/exe)" != "$(program /usr/lib/bulkhead/blk-backend)" || fail "the backend is new already"
bulkhead upgrade tiny --all || { cat /case/jailer.log >&2; fail "not upgraded"; }
new=$(pid 'blkdisk0')
test "$new" != "$old" || fail "the backend is the same process"
test "$(program /proc/$new/exe)" = "$(program /usr/lib/bulkhead/blk-backend)" || fail "the backend is not the installed one"
kill -0 $jailer || fail "the VM has ended"

bulkhead stop tiny --force
wait $jailer || true
left=$(ps -e -o comm= | grep -xE 'jailer|supervisor|vmm|blk-backend' || true)
test -z "$left" || fail "left: $left"
rm /etc/bulkhead/tiny.json
dpkg --purge bulkhead >/case/log 2>&1 || { cat /case/log >&2; fail "not removed"; }
files >/case/after
diff /case/before /case/after || fail "left behind"
