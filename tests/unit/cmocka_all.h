// SPDX-License-Identifier: Apache-2.0
// cmocka with the headers that it wants before it.
#ifndef SOFTMIG_TESTS_CMOCKA_ALL_H
#define SOFTMIG_TESTS_CMOCKA_ALL_H
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#endif
