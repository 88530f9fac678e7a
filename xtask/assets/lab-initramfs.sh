#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First program of the inner host: puts a writable layer over the root image and enters it.
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
while read -r module; do $bb insmod "/mod/$module"; done < /mod/order
until [ -b /dev/vda ]; do $bb usleep 10000; done
$bb mount -t squashfs -o ro /dev/vda /lower || $bb reboot -f
$bb mount -t tmpfs -o size=75% rw /upper
$bb mkdir /upper/data /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root
$bb cp /lab-init /root/lab-init
$bb umount /dev
exec $bb switch_root /root /lab-init
