// SPDX-License-Identifier: Apache-2.0
// See units.h.
#include "cli/units.h"

#include <inttypes.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>

struct softmig_text softmig_text_bytes(uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	struct softmig_text result;
	size_t unit = 0;
	double value = (double)bytes;
	while (value >= 1023.95 && unit < sizeof units / sizeof units[0] - 1) {
		value /= 1024;
		unit++;
	}
	snprintf(result.text, sizeof result.text, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return result;
}

struct softmig_text softmig_text_duration(uint64_t ns)
{
	struct softmig_text result;
	uint64_t tenths = (ns + 50000000) / 100000000;
	uint64_t seconds = (ns + 500000000) / 1000000000;
	if (tenths < 600)
		snprintf(result.text, sizeof result.text, "%" PRIu64 ".%" PRIu64 " s", tenths / 10, tenths % 10);
	else if (seconds < 3600)
		snprintf(result.text, sizeof result.text, "%" PRIu64 " min %02" PRIu64 " s", seconds / 60, seconds % 60);
	else
		snprintf(result.text, sizeof result.text, "%" PRIu64 " h %02" PRIu64 " min", seconds / 3600, seconds / 60 % 60);
	return result;
}

struct softmig_text softmig_text_permille(unsigned permille)
{
	struct softmig_text result;
	snprintf(result.text, sizeof result.text, "%u.%u %%", permille / 10, permille % 10);
	return result;
}

struct softmig_text softmig_text_uuid(const uint8_t uuid[16])
{
	struct softmig_text result;
	int length = snprintf(result.text, sizeof result.text, "GPU-");
	for (int i = 0; i < 16; i++)
		length += snprintf(result.text + length, sizeof result.text - (size_t)length, "%02x%s", uuid[i],
		                   i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
	return result;
}

struct softmig_text softmig_text_user(uid_t uid)
{
	struct softmig_text result;
	const struct passwd *user = uid == (uid_t)-1 ? NULL : getpwuid(uid);
	if (user)
		snprintf(result.text, sizeof result.text, "%.40s", user->pw_name);
	else if (uid == (uid_t)-1)
		snprintf(result.text, sizeof result.text, "?");
	else
		snprintf(result.text, sizeof result.text, "%u", (unsigned)uid);
	return result;
}
