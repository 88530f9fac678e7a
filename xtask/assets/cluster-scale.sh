#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What Pacemaker's scheduler does when hosts of a large cluster die: cluster-scale.sh HOSTS VMS DIE
#
# It writes a cluster of HOSTS hosts with 64 processors and 251 GiB each, on which VMS VMs of four sizes run as
# the agent describes them, and has crm_simulate say what follows when the first DIE hosts fail at once.
set -eu
hosts=$1 vms=$2 die=$3
cib=$(mktemp)
trap 'rm -f "$cib"' EXIT

awk -v hosts="$hosts" -v vms="$vms" '
function pair(id, name, value) { return "<nvpair id=\"" id "-" name "\" name=\"" name "\" value=\"" value "\"/>" }
function takes(id, cpu, mib) { return "<utilization id=\"" id "-takes\">" pair(id, "cpu", cpu) pair(id, "host_memory", mib) "</utilization>" }
function done(vm, what, ms) {
    key = "transition-key=\"1:1:0:0\" transition-magic=\"0:0;1:1:0:0\" crm_feature_set=\"3.1.0\""
    return "<lrm_rsc_op id=\"" vm "-" what "\" operation_key=\"" vm "_" what "_" ms "\" operation=\"" what "\" interval=\"" ms "\" call-id=\"1\" rc-code=\"0\" op-status=\"0\" " key "/>"
}
BEGIN {
    split("1 2 2 4", cpus); split("2048 4096 8192 16384", mibs)
    print "<cib crm_feature_set=\"3.1.0\" validate-with=\"pacemaker-3.1\" admin_epoch=\"0\" epoch=\"1\" num_updates=\"0\" have-quorum=\"1\" dc-uuid=\"" hosts "\"><configuration><crm_config><cluster_property_set id=\"o\">"
    print pair("o", "stonith-enabled", "true") pair("o", "placement-strategy", "balanced") pair("o", "enable-startup-probes", "false")
    print "</cluster_property_set></crm_config><nodes>"
    for (h = 1; h <= hosts; h++) print "<node id=\"" h "\" uname=\"host" h "\">" takes("host" h, 64, 257000) "</node>"
    print "</nodes><resources><primitive id=\"fence\" class=\"stonith\" type=\"fence_ipmilan\"/>"
    for (v = 1; v <= vms; v++) {
        size = int(v * 0.618034 * 4) % 4 + 1
        print "<primitive id=\"vm" v "\" class=\"ocf\" provider=\"bulkhead\" type=\"vm\">" takes("vm" v, cpus[size], mibs[size])
        print "<operations><op id=\"vm" v "-m\" name=\"monitor\" interval=\"10s\" timeout=\"30s\"/></operations></primitive>"
    }
    print "</resources><constraints/><rsc_defaults><meta_attributes id=\"d\">" pair("d", "resource-stickiness", "100") "</meta_attributes></rsc_defaults></configuration><status>"
    for (h = 1; h <= hosts; h++) {
        print "<node_state id=\"" h "\" uname=\"host" h "\" in_ccm=\"true\" crmd=\"online\" join=\"member\" expected=\"member\"><lrm id=\"" h "\"><lrm_resources>"
        if (h == hosts) print "<lrm_resource id=\"fence\" class=\"stonith\" type=\"fence_ipmilan\">" done("fence", "start", 0) "</lrm_resource>"
        for (v = h; v <= vms; v += hosts) print "<lrm_resource id=\"vm" v "\" class=\"ocf\" provider=\"bulkhead\" type=\"vm\">" done("vm" v, "start", 0) done("vm" v, "monitor", 10000) "</lrm_resource>"
        print "</lrm_resources></lrm></node_state>"
    }
    print "</status></cib>"
}' >"$cib"

set --
for host in $(seq "$die"); do set -- "$@" --node-fail "host$host"; done
crm_simulate --xml-file "$cib" --run "$@" | awk '
/^  \* Fence / { fenced++ }
/^  \* (Move|Recover) +vm/ { moved++; sub(/.*\( */, ""); sub(/ .*/, ""); left[$0] = 1 }
/^  \* Stop +vm/ { stopped++ }
END { for (host in left) hosts++; print "fenced " fenced+0 ", moved " moved+0 " VMs away from " hosts+0 " hosts, stopped " stopped+0 }'
