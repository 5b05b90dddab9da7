// SPDX-License-Identifier: Apache-2.0
// What the checks of softmig doctor report to. A check looks and tells; it changes nothing.
#ifndef SOFTMIG_CLI_DOCTOR_H
#define SOFTMIG_CLI_DOCTOR_H
#include "cli/json.h"
#include "cli/node.h"

enum softmig_finding {
	SOFTMIG_FINDING_OK,
	SOFTMIG_FINDING_SKIPPED, // there is nothing here to check
	SOFTMIG_FINDING_WARNING, // works, but not as well as it could, or not for everybody
	SOFTMIG_FINDING_FAULT,
};

struct softmig_doctor {
	struct softmig_node node;
	struct softmig_json *json; // NULL: for people
	bool enabled;              // the entry is in force; set by softmig_doctor_entry
	int faults;
	int warnings;
};

// One finding: about what, a sentence without a full stop, and what to do (NULL for OK and SKIPPED).
void softmig_doctor_tell(struct softmig_doctor *doctor, enum softmig_finding finding, const char *about, const char *advice,
                         const char *format, ...) __attribute__((format(printf, 5, 6)));

// doctor_node.c: files of the installation, and programs with the library
void softmig_doctor_library(struct softmig_doctor *doctor);
void softmig_doctor_entry(struct softmig_doctor *doctor);
void softmig_doctor_directories(struct softmig_doctor *doctor);
void softmig_doctor_limit_files(struct softmig_doctor *doctor);
void softmig_doctor_trial(struct softmig_doctor *doctor);
// doctor_driver.c: the driver, and a slice on it
void softmig_doctor_driver(struct softmig_doctor *doctor);
int softmig_doctor_probe(void); // what the scratch process of softmig_doctor_driver runs: prints what the driver says
// doctor_slurm.c: what surrounds jobs
void softmig_doctor_cgroup(struct softmig_doctor *doctor);
void softmig_doctor_slurm(struct softmig_doctor *doctor);
void softmig_doctor_containers(struct softmig_doctor *doctor);
#endif
