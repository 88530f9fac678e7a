#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the Debian that this runs in a guest to test with: a password, a network, and nothing at boot
# that a machine which lives for a minute does without.
set -e
# A hash that software emulation has soon.
echo root:bulkhead | chpasswd -c SHA512 -s 1000
echo guest > /etc/hostname
echo '127.0.0.1 localhost guest' > /etc/hosts
echo '/dev/vda / ext4 errors=remount-ro 0 1' > /etc/fstab
# What follows the login is the prompt.
: > /etc/motd
rm -f /etc/update-motd.d/*
echo 0123456789abcdef0123456789abcdef > /etc/machine-id

cat > /etc/systemd/network/80-ether.network << END
[Match]
Type=ether
[Network]
DHCP=ipv4
LinkLocalAddressing=no
[DHCPv4]
ClientIdentifier=mac
UseDNS=no
END
systemctl --quiet enable systemd-networkd.service
for unit in systemd-networkd dropbear; do
	mkdir "/etc/systemd/system/$unit.service.d"
	printf '[Unit]\nConditionPathExistsGlob=/sys/class/net/e*\n' > "/etc/systemd/system/$unit.service.d/nic.conf"
done
# Keys that every copy of this image has protect nothing: dropbear makes its own when it is called.
rm -f /etc/dropbear/dropbear_*_host_key
echo 'DROPBEAR_EXTRA_ARGS="-R"' > /etc/default/dropbear

mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\n' > /etc/systemd/journald.conf.d/short.conf
systemctl --quiet mask \
	apt-daily-upgrade.timer apt-daily.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
	systemd-tmpfiles-clean.timer dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
	sys-kernel-tracing.mount tmp.mount run-lock.mount proc-sys-fs-binfmt_misc.automount \
	systemd-ask-password-console.path systemd-ask-password-wall.path systemd-creds.socket \
	systemd-hostnamed.socket systemd-initctl.socket systemd-sysext.socket \
	e2scrub_reap.service getty-static.service getty@tty1.service kmod-static-nodes.service \
	ldconfig.service modprobe@.service systemd-binfmt.service systemd-firstboot.service \
	systemd-hibernate-clear.service systemd-hwdb-update.service \
	systemd-journal-catalog-update.service systemd-journal-flush.service systemd-logind.service \
	systemd-machine-id-commit.service systemd-modules-load.service systemd-network-generator.service \
	systemd-networkd-persistent-storage.service systemd-networkd-wait-online.service \
	systemd-pcrphase.service systemd-random-seed.service systemd-remount-fs.service \
	systemd-sysctl.service systemd-sysusers.service systemd-udev-load-credentials.service \
	systemd-update-done.service systemd-update-utmp.service
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log
