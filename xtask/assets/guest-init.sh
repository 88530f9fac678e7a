#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Says what the guest sees, then does what guest.do= on the kernel command line asks for.
export PATH=/bin HOME=/root
mount -t proc proc /proc
read -r up _ < /proc/uptime
echo "GUEST uptime=$up"

do=shell modules=
read -r cmdline < /proc/cmdline
for word in $cmdline; do
	case $word in
	guest.do=*) do=${word#*=} ;;
	guest.modules=*) modules=${word#*=} ;;
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
	load button evdev
	for event in /sys/class/input/event*; do
		read -r name < "$event/device/name"
		[ "$name" = "Power Button" ] || continue
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

# Obeys the console, a line at a time.
ask() {
	echo "GUEST ready"
	while read -r line; do
		case $line in
		poweroff) poweroff -f ;;
		reboot) reboot -f ;;
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
spin) echo "GUEST spinning"; while :; do :; done ;;
ask) ask ;;
shell) export PS1='guest# ' TERM=${TERM:-linux}; cd; exec setsid cttyhack sh ;;
esac
echo "GUEST cannot do '$do'"
exec setsid cttyhack sh
