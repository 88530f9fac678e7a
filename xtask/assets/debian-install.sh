#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the packages whose archives are in a file system that they were unpacked in already, sets the
# system up, and leaves nothing of either behind. Runs in a machine of its architecture.
# What is said is shown only if something fails.
exec 2>&1
set -e
root=/mnt
mkdir -p $root
mount -t ext4 -o discard /dev/vdc $root
mount -t proc proc $root/proc
mount -t devtmpfs dev $root/dev
# Nothing is to be started in here.
printf '#!/bin/sh\nexit 101\n' > $root/usr/sbin/policy-rc.d
chmod +x $root/usr/sbin/policy-rc.d
mkdir -p $root/var/lib/dpkg
: > $root/var/lib/dpkg/status
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
# The first of all packages, which others take for granted.
chroot $root sh -c "dpkg --force-depends --force-unsafe-io --install $ARCHIVES/base-passwd_*.deb $ARCHIVES/base-files_*.deb"
chroot $root sh -c "dpkg --force-depends --force-unsafe-io $EXCLUDE --install $ARCHIVES/*.deb"
chroot $root dpkg --configure -a
chroot $root sh /setup
rm -rf "$root$ARCHIVES" $root/setup $root/usr/sbin/policy-rc.d
umount $root/dev $root/proc
fstrim $root
umount $root
