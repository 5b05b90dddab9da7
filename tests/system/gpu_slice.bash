# SPDX-License-Identifier: Apache-2.0
# A slice of two simulated GPUs for a program of tests/system/programs. For bats files: load gpu_slice; in_slice LIMIT COMMAND...

slice_setup() {
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	work=$(mktemp -d /tmp/softmig-slice.XXXXXX)
	export LD_LIBRARY_PATH=$BUILD/sim SOFTMIG_SIM_STATE=$work/sim SOFTMIG_SIM_GPUS=${SOFTMIG_SIM_GPUS:-2xL40S:46068M}
	export CUDA_DEVICE_MEMORY_SHARED_CACHE=$work/ledger SOFTMIG_LOG_FILE=$work/log SOFTMIG_LOG_LEVEL=1
	unset "${!SLURM_@}" "${!CUDA_DEVICE_MEMORY_LIMIT@}" "${!CUDA_DEVICE_SM_@}" LD_PRELOAD
}

slice_teardown() {
	rm -rf "$work"
}

# witness_setup LIMIT: the same, in which the simulated driver notes who steps above the limit, for however short; then nobody may have.
witness_setup() {
	slice_setup
	export SOFTMIG_SIM_CEILING=$1 SOFTMIG_SIM_WITNESS=$work/witness
}

witness_teardown() {
	local above="nobody watched"
	[ ! -e "$work/witness" ] || above=$(cat "$work/witness")
	[ ! -e "$work/log" ] || cat "$work/log"
	slice_teardown
	echo "$above"
	[ -z "$above" ]
}

# A file that needs more has its own, which call these.
setup() { slice_setup; }
teardown() { slice_teardown; }

# in_slice LIMIT PROGRAM ARGUMENT...: runs build/programs/PROGRAM in a slice of that much memory on each GPU.
in_slice() {
	CUDA_DEVICE_MEMORY_LIMIT=$1 LD_PRELOAD=$BUILD/libsoftmig.so "$BUILD/programs/$2" "${@:3}"
}
