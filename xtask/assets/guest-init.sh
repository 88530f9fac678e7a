#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Says what the guest sees, then does what guest.do= on the kernel command line asks for.
export PATH=/bin HOME=/root
mount -t proc proc /proc
read -r up _ < /proc/uptime
echo "GUEST uptime=$up"

do=shell modules= rounds=1
read -r cmdline < /proc/cmdline
for word in $cmdline; do
	case $word in
	guest.do=*) do=${word#*=} ;;
	guest.modules=*) modules=${word#*=} ;;
	guest.rounds=*) rounds=${word#*=} ;;
	esac
done

# Loads modules and what they need; a line of /mod/order names one and the files it takes.
load() {
	for name; do
		while read -r module files; do
			[ "$module" = "$name" ] || continue
			for file in $files; do insmod "/mod/$file" 2> /dev/null; done
		done < /mod/order
	done
}

[ "$do" = bench ] && poweroff -f

mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "GUEST uname=$(uname -a)"
echo "GUEST cpus=$(nproc)"
while read -r key value _; do
	[ "$key" = MemTotal: ] && echo "GUEST mem_kib=$value" && break
done < /proc/meminfo
[ -z "$modules" ] || load $(IFS=,; echo $modules)

power_button() {
	load button evdev gpio_keys virtio_pci virtio_input
	for event in /sys/class/input/event*; do
		read -r name < "$event/device/name"
		case $name in "Power Button" | gpio-keys) ;; *) continue ;; esac
		# Opened first: only who has it open is told.
		exec 3< "/dev/input/${event##*/}"
		echo "GUEST waiting"
		dd of=/dev/null bs=24 count=1 <&3 2> /dev/null
		echo "GUEST button"
		poweroff -f
	done
	echo "GUEST no power button"
}

crash() {
	echo 1 > /proc/sys/kernel/sysrq
	echo c > /proc/sysrq-trigger
}

# Waits for the disk, if there is one (virtio device 2), whose driver is in modules.
vda() {
	load virtio_pci virtio_blk
	grep -qs 0x0002 /sys/bus/virtio/devices/*/device || return
	tries=0
	while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
}

# Goes on with the system on the disk, which finds its disk and network there already.
root() {
	vda
	load virtio_net crc32c_generic ext4
	mkdir /disk
	mount -t ext4 /dev/vda /disk || { echo "GUEST no root file system"; poweroff -f; }
	umount /sys /proc
	umount /dev
	exec switch_root /disk /sbin/init
}

# Says what /dev/vda is; each round writes a MiB of numbers to it, makes that durable, forgets it
# and reads it back. The last line is disk=ok only if there is a disk and nothing failed.
disk() {
	vda
	[ -b /dev/vda ] || { echo "GUEST disk=missing"; return; }
	for fact in size serial ro; do
		read -r value < /sys/block/vda/$fact
		echo "GUEST disk_$fact=$value"
	done
	echo "GUEST disk_vectors=$(grep -c 'MSI.*virtio.*-req' /proc/interrupts)"
	echo "GUEST disk_interrupt=$(grep -m 1 virtio /proc/interrupts | tr -s ' ')"
	read -r ro < /sys/block/vda/ro
	[ "$ro" = 0 ] || rounds=0
	round=0
	while [ $round -lt $rounds ]; do
		round=$((round + 1))
		seq ${round}000000 ${round}999999 | head -c 1048576 > /tmp/data
		dd if=/tmp/data of=/dev/vda bs=16k conv=fsync 2> /dev/null || { echo "GUEST disk=not written"; return; }
		blockdev --flushbufs /dev/vda
		echo 3 > /proc/sys/vm/drop_caches
		expected=$(sha256sum < /tmp/data)
		[ "$(head -c 1048576 /dev/vda | sha256sum)" = "$expected" ] || { echo "GUEST disk=bad"; return; }
		echo "GUEST disk_round=$round"
	done
	if [ "$ro" = 1 ]; then
		dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2> /dev/null && { echo "GUEST disk=written"; return; }
		dd if=/dev/vda of=/tmp/data bs=64k count=16 2> /dev/null || { echo "GUEST disk=not read"; return; }
	fi
	dmesg | grep -i 'I/O error.*vda\|hung' && { echo "GUEST disk=errors"; return; }
	echo "GUEST disk=ok"
}

# A network card, and a shell for programs on the console, which neither echoes nor prompts. DHCP is
# `dhcp`.
net() {
	load virtio_pci virtio_net af_packet
	tries=0
	while [ ! -e /sys/class/net/eth0 ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
	printf '%s\n' '#!/bin/sh' '[ "$1" = bound ] || exit 0' 'ip addr add $ip/$mask dev $interface' \
		'ip route add default via $router' > /bin/dhcp-bound
	printf '%s\n' '#!/bin/sh' 'exec udhcpc -i eth0 -n -q -t 10 -T 1 -s /bin/dhcp-bound' > /bin/dhcp
	chmod +x /bin/dhcp-bound /bin/dhcp
	ip link set lo up
	ip link set eth0 up
	stty -echo
	echo "GUEST mac=$(cat /sys/class/net/eth0/address)"
	exec sh /dev/console
}

# Reads and writes a file system of the host's.
fs() {
	load virtio_pci virtiofs
	mkdir /shared
	mount -t virtiofs from-outside /shared || { echo "GUEST fs=not mounted"; return; }
	echo "GUEST fs_read=$(cat /shared/from-host)"
	echo "written by the guest" > /shared/from-guest
	dd if=/dev/zero of=/shared/copy bs=64k count=16 2> /dev/null || { echo "GUEST fs=not written"; return; }
	umount /shared && echo "GUEST fs=ok"
}

# Goes on in a file system of the host's.
fsroot() {
	load virtio_pci virtiofs
	mkdir /root-of-host
	mount -t virtiofs from-outside /root-of-host || { echo "GUEST root=not mounted"; return; }
	mount -t devtmpfs dev /root-of-host/dev
	exec switch_root -c /dev/console /root-of-host /sbin/init
}

# Obeys the console, a line at a time.
ask() {
	echo "GUEST ready"
	while read -r line; do
		case $line in
		poweroff) poweroff -f ;;
		reboot) reboot -f ;;
		disk) disk ;;
		wait) power_button ;;
		panic) load pvpanic pvpanic-mmio; crash ;;
		*) echo "GUEST echo=$line" ;;
		esac
	done
}

case $do in
poweroff) poweroff -f ;;
reboot) reboot -f ;;
panic) load pvpanic pvpanic-mmio; crash ;;
crash-no-pvpanic) crash ;;
wait) power_button ;;
disk) disk; poweroff -f ;;
root) root ;;
fs) fs; poweroff -f ;;
fsroot) fsroot; poweroff -f ;;
spin) echo "GUEST spinning"; while :; do :; done ;;
ask) ask ;;
net) net ;;
shell) export PS1='guest# ' TERM=${TERM:-linux}; cd; exec setsid cttyhack sh ;;
esac
echo "GUEST cannot do '$do'"
exec setsid cttyhack sh
