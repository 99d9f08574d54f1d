/* SVM's exit codes: AMD APM vol. 2, appendix C. */
#ifndef NV_SVM_EXITS_H
#define NV_SVM_EXITS_H

#include "exit_row.h"

/* Never NULL. */
const struct nv_exit_row *nv_svm_exit_row(uint64_t code);

#endif
