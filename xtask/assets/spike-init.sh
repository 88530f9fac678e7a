#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Init of the host in Spike: mounts what a host has, boots one guest with a disk, says how that ended and
# what is left, and powers off.
export PATH=/bin HOME=/
# The kernel lets no process leave an initramfs as its root, which jails take: the root moves into one
# that is mounted.
if [ "$1" != moved ]; then
	/bin/busybox mkdir /new
	/bin/busybox mount -t tmpfs -o mode=755 root /new
	for dir in bin dev guest init mod; do /bin/busybox cp -a /$dir /new; done
	for dir in proc run sys tmp; do /bin/busybox mkdir /new/$dir; done
	exec /bin/busybox switch_root /new /init moved
fi
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
while read -r module; do insmod "/mod/$module"; done < /mod/order
echo "HOST uname=$(uname -a)"

# Not on the console: Spike's serial port says nothing more once its settings have been changed, as on a
# terminal.
truncate -s 16M /tmp/disk.img
bulkhead run --name spike --kernel /guest/kernel --initrd /guest/initrd --mem 256M --cpus "$(nproc)" \
	--disk path=/tmp/disk.img \
	--cmdline "console=ttyS0 quiet panic=-1 guest.do=disk" < /dev/null > /tmp/said 2>&1 &
run=$!
while [ -d /proc/$run ]; do
	irqchip=$(bulkhead inspect spike 2> /dev/null | sed -n 's/^irqchip *//p')
	case $irqchip in '' | auto) sleep 1 ;; *) break ;; esac
done
echo "HOST irqchip=$irqchip"
wait $run
status=$?
cat /tmp/said
echo "HOST status=$status"
left=$(ps -o comm | grep -E 'bulkhead|jailer|vmm|backend' | tr '\n' ' ')$(ls /sys/fs/cgroup | grep bulkhead)
echo "HOST left=${left:-nothing}"
echo "HOST end"
echo o > /proc/sysrq-trigger
sleep 600
