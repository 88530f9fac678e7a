#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A fence agent for hosts made of namespaces: it asks the case, which is the switch of their power, by a
# file, and returns when the host is off. Pacemaker speaks to it as to any other: options as NAME=VALUE
# lines on standard input.

metadata() {
    cat <<END
<?xml version="1.0"?>
<resource-agent name="fence_case" shortdesc="Switches off hosts made of namespaces">
<longdesc>For the test of the cluster only.</longdesc>
<parameters>
<parameter name="action" unique="0" required="1">
<getopt mixed="-o"/><content type="string" default="reboot"/><shortdesc lang="en">What to do</shortdesc>
</parameter>
<parameter name="port" unique="0" required="0">
<getopt mixed="-n"/><content type="string"/><shortdesc lang="en">The host</shortdesc>
</parameter>
</parameters>
<actions>
<action name="on"/><action name="off"/><action name="reboot"/>
<action name="monitor"/><action name="status"/><action name="metadata"/>
</actions>
</resource-agent>
END
}

dir=/run/case/fence
action=reboot port=
case "${1:-}" in
-o) action=$2 ;;
*)
    while IFS='=' read -r option value; do
        case "$option" in
        action) action=$value ;;
        port | nodename | plug) port=$value ;;
        esac
    done
    ;;
esac

case "$action" in
metadata) metadata ;;
monitor | status | on) ;;
off | reboot)
    rm -f "$dir/$port.off"
    : >"$dir/$port.request"
    until [ -e "$dir/$port.off" ]; do sleep 0.02; done
    date +%s.%N >"$dir/$port.returned"
    ;;
*) exit 1 ;;
esac
