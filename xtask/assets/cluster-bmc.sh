#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The power of a host, as its simulated baseboard controller asks for it and switches it:
# cluster-bmc.sh HOST DIR get|set|check power [0|1]. The case, which is the switch, is asked by a file in DIR.
set -eu
host=$1 dir=$2 action=$3 value=${5:-}
case "$action$value" in
get) [ -e "$dir/$host.off" ] && echo power:0 || echo power:1 ;;
set0) rm -f "$dir/$host.off" && : >"$dir/$host.request" ;;
# The case boots its hosts itself.
set1) rm -f "$dir/$host.off" && : >"$dir/$host.switched-on" ;;
esac
