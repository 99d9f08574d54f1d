/* The rules of VMRUN, each of which a control block must keep: AMD APM vol. 2, 15.5.1 and 15.20. They say why the processor refused the
 * block that L0 made, and whether L0 refuses the block of a level that has SVM by software. */
#ifndef NV_SVM_RULES_H
#define NV_SVM_RULES_H

#include "svm.h"

#define NV_SVM_RULES 22

/* What the rule of this number, less than NV_SVM_RULES, says of a block that breaks it, and the bits that do (0: they say nothing); NULL:
 * the block keeps it. */
const char *nv_svm_broken_rule(const struct nv_svm_limits *limits, const struct nv_vmcb *block, uint32_t number, uint64_t *bits);

/* Whether the block keeps all of them. */
int nv_svm_valid(const struct nv_svm_limits *limits, const struct nv_vmcb *block);

#endif
