# SPDX-License-Identifier: Apache-2.0
# From a list of exports: a C file with a weak definition of each (it answers "not supported" unless the simulator has its own),
# and the linker's version script. Called with -DLIST= -DC= -DMAP= -DCODE=.
file(STRINGS ${LIST} names)
list(LENGTH names count)
set(text "// Generated from ${LIST}: ${count} exports.\n")
set(map "{\n\tglobal:\n")
foreach(name ${names})
  string(APPEND text "int ${name}(void);\n__attribute__((weak)) int ${name}(void)\n{\n\treturn ${CODE};\n}\n")
  string(APPEND map "\t\t${name};\n")
endforeach()
string(APPEND map "\tlocal:\n\t\t*;\n};\n")
file(WRITE ${C} "${text}")
file(WRITE ${MAP} "${map}")
