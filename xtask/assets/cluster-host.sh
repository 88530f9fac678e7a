# SPDX-License-Identifier: Apache-2.0
# Pid 1 of a host of the cluster: cluster-host.sh NAME NUMBER CASE. It is started in namespaces of its own; it
# makes what a host has for itself, and starts corosync and pacemaker as their units do. Its end is the
# host's power loss.
set -eu
name=$1 number=$2 case=$3
exec </dev/null >>"$case/log/$name" 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

hostname "$name"
mount --make-rprivate /
# A pacemaker that panics would restart the machine that all this runs on.
[ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null /proc/sysrq-trigger
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for dir in /run /var/lib/pacemaker /var/lib/corosync /var/log; do
    mount -t tmpfs -o mode=755 tmpfs "$dir"
done
# What the packages install, and the administrator writes, in front of the machine's own.
for dir in usr etc; do
    mount -t overlay -o "lowerdir=$case/root/$dir:/$dir" overlay "/$dir"
done
mount --bind "$case/srv" /srv
mkdir -p /run/case /run/local /run/resource-agents /var/log/corosync /var/log/crmsh
mount --bind "$case" /run/case
mount --bind "$case/local/$name" /run/local
mount --bind "$case/corosync" /etc/corosync
# All hosts are one kernel, which counts the processes of a user on all of them.
mkdir -m 700 /run/bulkhead
touch /run/bulkhead/uids
mount --bind "$case/uids" /run/bulkhead/uids
for dir in /run/crm /var/log/pacemaker /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/blackbox /var/lib/pacemaker/cores; do
    install -d -m 750 -o hacluster -g haclient "$dir"
done
install -m 600 -o hacluster -g haclient "$case/first-cib.xml" /var/lib/pacemaker/cib/cib.xml

# The other end is the runner's.
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add "10.20.0.$number/24" dev eth0
# Of the network of the controllers.
ip address add "10.30.0.10$number/24" dev eth0
ip link set eth0 up

corosync -f &
until corosync-quorumtool -s >/dev/null 2>&1; do sleep 0.1; done
PCMK_logfile=$case/log/$name.pacemaker PCMK_logfacility=none pacemakerd &
# Reaps what lost its parent.
while :; do sleep 0.2; done
