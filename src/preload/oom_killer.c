// SPDX-License-Identifier: Apache-2.0
// The active OOM killer: see oom_killer.h. A pidfd holds the victim fast between the check and the signal where the kernel has
// pidfds (5.3), so that a reused pid is never hit; before that, the check comes immediately before the signal.
#include "preload/oom_killer.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/mode.h"
#include "preload/own.h"
#include "slice/format.h"
#include "slice/job.h"
#include "slice/log.h"
#include "slice/sys.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

static bool owned_by(pid_t pid, uid_t *uid)
{
	char path[32];
	struct stat status;

	softmig_format(path, sizeof(path), "/proc/%d", (int)pid);
	if (softmig_sys_stat(path, &status) != 0)
		return false;
	*uid = status.st_uid;
	return true;
}

static bool is_victim(pid_t pid)
{
	uid_t uid;

	if (pid <= 1 || !owned_by(pid, &uid))
		return false;
	if (uid == 0 || uid != geteuid())
		return false;
	if (softmig_mode_job() != 0) {
		struct softmig_job job = softmig_job_find(pid, false);
		if (job.source == SOFTMIG_JOB_CGROUP)
			return job.id == softmig_mode_job();
	}
	return true;
}

static void kill_one(const struct softmig_ledger_slot *slot, pid_t pid, int gpu)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (softmig_ledger_slot_alive(softmig_ledger_now(), slot) && softmig_ledger_slot_pid(slot) == pid && is_victim(pid)) {
		long result = pidfd >= 0 ? syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) : kill(pid, SIGKILL);
		if (result == 0)
			softmig_log(SOFTMIG_LOG_ERROR, "out of memory on GPU %d: process %d killed (ACTIVE_OOM_KILLER)", gpu, (int)pid);
		else
			softmig_log(SOFTMIG_LOG_ERROR, "out of memory on GPU %d: process %d cannot be killed (errno %d)", gpu, (int)pid, errno);
	}
	if (pidfd >= 0)
		softmig_sys_close(pidfd);
}

void softmig_oom_kill(struct softmig_gpu *gpu)
{
	struct softmig_ledger_file *file = softmig_ledger_now()->file;
	const struct softmig_ledger_slot *own = softmig_ledger_self(softmig_ledger_now());
	int kept = errno;

	if (!softmig_limits_now()->oom_killer)
		return;
	for (int i = 0; i < SOFTMIG_LEDGER_SLOTS; i++) {
		const struct softmig_ledger_slot *slot = &file->slot[i];
		pid_t pid = softmig_ledger_slot_pid(slot);
		if (slot == own || pid == 0 || pid == getpid())
			continue;
		if (atomic_load(&slot->use[gpu->ledger].tracked_bytes) + atomic_load(&slot->use[gpu->ledger].overhead_bytes) > 0)
			kill_one(slot, pid, gpu->number);
	}
	if (own != NULL)
		kill_one(own, getpid(), gpu->number);
	errno = kept;
}
