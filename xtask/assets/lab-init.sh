#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Init of the inner host: mounts what a host has, unpacks our binaries, runs one command.
# Its output and exit status leave by virtio-serial ports, so the kernel's console stays apart.
export PATH=/opt/bulkhead/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/hugepages /mnt
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
hold= work=
for word in $(cat /proc/cmdline); do
	case $word in
	lab.module=*) modprobe "${word#*=}" ;;
	lab.hold) hold=yes ;;
	lab.work) work=yes ;;
	esac
done
modprobe -a tun loop
ip link set lo up
hostname lab

mkdir -p /opt/bulkhead/guests
(cd /opt/bulkhead && busybox cpio -i -d < /dev/vdb 2> /dev/null)
[ $work ] || mount -t squashfs -o ro /dev/vdc /opt/bulkhead/guests

# A guest whose memory comes in large pages faults seldom, and software emulation forgets where the
# guest was when a fault meets the delivery of an interrupt.
echo always > /sys/kernel/mm/transparent_hugepage/shmem_enabled

# Software emulation does not survive a KVM that patches itself: see the program.
if [ $hold ]; then
	e2e hold-kvm > /run/held 2>&1 &
	until [ -s /run/held ]; do sleep 0.05; done
fi

finish() {
	echo "exit $1" >&3
	echo o > /proc/sysrq-trigger
	sleep 60
}

cd /root
# Until here it can be done again as if it had never been tried.
exec 3> /dev/vport0p3
echo begin >&3
if grep -q lab.shell /proc/cmdline; then
	setsid -c sh /opt/bulkhead/lab/command < /dev/hvc0 > /dev/hvc0 2>&1 3>&-
	finish $?
fi
mkfifo /run/lab-out /run/lab-err
cat /run/lab-out > /dev/vport0p1 3>&- &
out=$!
cat /run/lab-err > /dev/vport0p2 3>&- &
err=$!
setsid sh /opt/bulkhead/lab/command < /dev/null > /run/lab-out 2> /run/lab-err 3>&-
status=$?
# What the command left running may hold its output open; it has had its time.
timeout 2 tail -s 0.05 --pid=$out -f /dev/null
timeout 1 tail -s 0.05 --pid=$err -f /dev/null
finish $status
