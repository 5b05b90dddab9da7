// SPDX-License-Identifier: Apache-2.0
// Which uid the host's root has in here: see owner.h.
#include "slice/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>

#include "slice/sys.h"

#define OVERFLOW_UID 65534u // what an owner without a name in this user namespace looks like

// Does /proc/self/uid_map map every uid to itself, as outside of any user namespace? Without the file there are none.
static bool uids_are_the_hosts(void) {
	static const char identity[] = "0 0 4294967295";
	char raw[128], plain[128];
	int descriptor = softmig_sys_open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC, 0);
	if (descriptor < 0)
		return true;
	ssize_t got = softmig_sys_read(descriptor, raw, sizeof(raw));
	softmig_sys_close(descriptor);
	size_t length = 0;
	for (ssize_t i = 0; i < got; i++) { // blanks folded into one
		char character = raw[i] == '\n' ? ' ' : raw[i];
		if (character != ' ' || (length > 0 && plain[length - 1] != ' '))
			plain[length++] = character;
	}
	while (length > 0 && plain[length - 1] == ' ')
		length--;
	return length == sizeof(identity) - 1 && memcmp(plain, identity, length) == 0;
}

uid_t softmig_owner_here(uid_t uid) {
	if (uid != 0)
		return uid;
	int saved_errno = errno;
	bool same = uids_are_the_hosts();
	errno = saved_errno;
	return same ? uid : OVERFLOW_UID;
}
