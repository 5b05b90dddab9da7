// SPDX-License-Identifier: Apache-2.0
// What a slice may use. Owns: the grammar of limits, the limit file with all its refusals, the environment's form.
// Must never: allocate, print, keep a descriptor, change errno; a doubtful value is an error, never "unlimited".
#ifndef SOFTMIG_SLICE_LIMITS_H
#define SOFTMIG_SLICE_LIMITS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SOFTMIG_MAX_GPUS  16
#define SOFTMIG_STATE_DIR "/var/run/softmig"

enum softmig_share_mode { SOFTMIG_SHARE_CAP, SOFTMIG_SHARE_BORROW };

struct softmig_limits {
	uint64_t memory_bytes[SOFTMIG_MAX_GPUS]; // per GPU number that the program sees; 0: no limit
	uint8_t sm_pct[SOFTMIG_MAX_GPUS];        // 1..99; 100: no limit (0 in the file is stored as 100)
	bool has_memory;                         // some memory key is present
	bool has_sm; // some SM key is present, even "no limit": launches are then hooked, so that it can change live
	bool has_uuid[SOFTMIG_MAX_GPUS];    // key SOFTMIG_GPU_UUID_<i>=GPU-xxxxxxxx-...: entry i is for that GPU, whatever
	                                    // number the program gives it
	uint8_t uuid[SOFTMIG_MAX_GPUS][16]; // as cuDeviceGetUuid gives it
	bool oom_killer;
	int log_level; // -1: not named
	enum softmig_share_mode share_mode;
};

// One line's fault, for the log and for tools.
struct softmig_limits_error {
	int line;          // 1-based, 0: the file as a whole
	char message[160]; // one sentence without a full stop: what is wrong and what is expected
};

#define SOFTMIG_LIMITS_FILE_BYTES 65536 // a larger file is refused
#define SOFTMIG_LIMITS_LINE_BYTES 1024  // a longer line is refused

enum softmig_limits_status {
	SOFTMIG_LIMITS_OK,
	SOFTMIG_LIMITS_ABSENT, // no such file, or no limit variable set
	SOFTMIG_LIMITS_BAD,    // refused: error says why; the caller fails closed
};

// No limits at all: everything zero or "no limit".
void softmig_limits_init(struct softmig_limits *limits);

// "12288M", "24G", "16g", "12GB", "12GiB", "1048576k", bytes without unit. K, M, G, T are powers of 1024.
// Refuses: empty, sign, unknown unit, overflow of 63 bits, zero, trailing text. Returns false and leaves *bytes alone.
bool softmig_limits_parse_bytes(const char *text, size_t length, uint64_t *bytes);
// "0".."100" into 1..100 (0 is 100: no limit).
bool softmig_limits_parse_pct(const char *text, size_t length, uint8_t *pct);
// "GPU-8-4-4-4-12" (any case) into 16 bytes.
bool softmig_limits_parse_uuid(const char *text, size_t length, uint8_t uuid[16]);

// The whole text of a limit file: lines KEY=VALUE. Blanks around key and value, a carriage return at the end of a line,
// empty lines, comments (# at the start of a line or after a blank) and a last line without a newline are accepted.
// Everything else is BAD with its line: a line without '=', a key that is unknown (a newer file under an older library
// must not mean "unlimited"), belongs in the environment only or is given twice, a GPU number over 15, a value outside
// its grammar, a NUL byte, a byte order mark. A text without a single key is BAD too: it is what a full disk leaves of
// a file. A key with _<i> overrides the general one for GPU i, whichever comes first. On BAD, *limits is as after init.
enum softmig_limits_status softmig_limits_parse(const char *text, size_t length, struct softmig_limits *limits,
                                                struct softmig_limits_error *error);

// The limit file of a job: state_dir/{job}.conf, else state_dir/{job}_{digits}.conf (two of these: BAD). Refuses (BAD)
// a link, a file that is not regular, not owner_uid's (root: 0), writable by group or others, in a directory that is
// not owner_uid's, is a link, or may be written by group or others, or that cannot be searched, larger than 64 KiB, or
// unreadable for any reason other than not being there. Writers rename a finished file into place: a half written one
// cannot always be told from a whole one. On OK and BAD, path (of path_size bytes) names the file; with a fault of the
// directory, the one that was looked for. Seen from inside a user namespace, root's files bear the overflow uid
// (65534): there that is what owner_uid 0 means, and "root" of the namespace, being the user, is refused.
enum softmig_limits_status softmig_limits_load(const char *state_dir, uint64_t job, uid_t owner_uid,
                                               struct softmig_limits *limits, struct softmig_limits_error *error,
                                               char *path, size_t path_size);
// Loads one file by its path, with the same refusals; used for re-reading. ABSENT: no longer there.
enum softmig_limits_status softmig_limits_load_path(const char *path, uid_t owner_uid, struct softmig_limits *limits,
                                                    struct softmig_limits_error *error);

// From environ-like pairs, the same keys and grammar as in the file. ABSENT when no memory or SM limit is among them,
// whatever the others say. Other variables are left alone; of a variable that is there twice the first counts, as with
// getenv. BAD as in the file, with line 0.
enum softmig_limits_status softmig_limits_from_environment(char *const *environment, struct softmig_limits *limits,
                                                           struct softmig_limits_error *error);
#endif
